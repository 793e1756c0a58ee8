// sample: one token for each row of logits; the meaning is src/cullama/sampling/sampler.py, rule by rule.
//   scores = logits (+ bias, - penalties); weights = exp((score - best) / temperature); of these
//   the top k, then the smallest set that reaches top_p, then those of at least min_p are kept; the
//   token is the one whose stretch of the cumulative weights, in order of ids, holds a random number.
//   logits [R, V] float32, params [R] -> drawn [R]
//   Launch: one block for each row.
//
// Weights are summed as whole numbers, 2^40 for the likeliest: sums of whole numbers are the same in
// any order, so a draw is the same however threads come to meet. What weighs less than 2^-40 of the
// likeliest is never drawn. "The k largest" and "the largest that reach p" are both a cut in the
// order of falling scores and, among equals, rising ids; a cut is found digit by digit, from
// histograms of 8 bits of the score (radix select), without sorting.
#include "common.cuh"

constexpr int MOST_LOGPROBS = 20;
constexpr float ONE = 1099511627776.f;  // 2^40, the weight of the likeliest token

// One row's share of a request, as src/cullama/cuda/sampling.py packs it: 16 words.
struct SampleParams {
    float temperature;         // 0: take the likeliest
    int top_k;                 // 0: all
    u64 top_p;                 // in units of 2^-64; 0: all
    float min_p;               // 0: all
    float repetition_penalty, presence_penalty, frequency_penalty;
    u32 seed_low, seed_high, position, sample_index;  // of the random number
    int biases, seen;          // where the row's entries end in the lists; they begin at its neighbour's
    int scratch;               // row of `scratch` for changed scores; -1: nothing changes
    int logprobs;              // how many likeliest tokens to report; -1: nothing
};

struct Bias {
    int token;
    float bias;
};
struct Seen {
    int token, count;  // a token of the text so far; how often it is in the answer
};

struct Drawn {
    int token;
    float best;  // the logit or score that was not finite, if so: then nothing was drawn
    float logprob;
    int top[MOST_LOGPROBS];
    float top_logprobs[MOST_LOGPROBS];
};

// --- order ---------------------------------------------------------------------------------------

// Larger for larger scores; what is not a number is largest of all.
__device__ __forceinline__ u32 key_of(float score) {
    if (score != score) return 0xfffffffeu;
    const u32 bits = __float_as_uint(score + 0.f);  // -0 counts as 0
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
// Larger for tokens that come earlier: by score, then by id.
__device__ __forceinline__ u64 rank_of(float score, int token) {
    return u64(key_of(score)) << 32 | u32(~token);
}
__device__ __forceinline__ int token_of(u64 rank) { return int(~u32(rank)); }

// The first in order among those that come after `before`.
__device__ u64 first_after(const float* scores, int size, u64 before) {
    u64 first = 0;
    for (int i = threadIdx.x; i < size; i += blockDim.x) {
        const u64 rank = rank_of(scores[i], i);
        if (rank < before) first = Max::of(first, rank);
    }
    return block_reduce<Max>(first, u64(0));
}
constexpr u64 BEFORE_ALL = ~u64(0);

// --- cuts ------------------------------------------------------------------------------------------

// The row, as far as drawing is concerned.
struct Row {
    const float* scores;
    int size;
    float best, temperature;
    u64 last;  // rank of the last token that is kept
    __device__ __forceinline__ bool keeps(int i) const { return rank_of(scores[i], i) >= last; }
    __device__ __forceinline__ float weight(int i) const { return expf((scores[i] - best) / temperature); }
};
struct Count {
    static __device__ __forceinline__ u64 of(const Row&, int) { return 1; }
};
struct Weight {
    static __device__ __forceinline__ u64 of(const Row& row, int i) { return u64(row.weight(i) * ONE); }
};

template <typename Measure> __device__ u64 total(const Row& row) {
    u64 sum = 0;
    for (int i = threadIdx.x; i < row.size; i += blockDim.x)
        if (row.keeps(i)) sum += Measure::of(row, i);
    return block_reduce<Sum>(sum, u64(0));
}

// The token at which the measures of all that `counts`, added in order of ids, first exceed `target`.
// Each warp adds up a stretch of ids; then the one whose stretch it is walks it.
template <typename Measures> __device__ int locate(int size, u64 target, Measures measure) {
    __shared__ u64 of_warp[WARP];
    __shared__ int found;
    const int stretch = (size + blockDim.x - 1) / blockDim.x * WARP;
    const int begin = warp_index() * stretch, end = min(begin + stretch, size);
    u64 sum = 0;
    for (int i = begin + lane_index(); i < end; i += WARP) sum += measure(i);
    sum = warp_reduce<Sum>(sum);
    if (lane_index() == 0) of_warp[warp_index()] = sum;
    if (threadIdx.x == 0) found = size - 1;
    __syncthreads();
    u64 before = 0;
    for (int warp = 0; warp < warp_index(); warp++) before += of_warp[warp];
    if (before <= target && target < before + sum) {
        for (int first = begin; first < end; first += WARP) {
            const int i = first + lane_index();
            u64 upto = i < end ? measure(i) : 0;
#pragma unroll
            for (int distance = 1; distance < WARP; distance *= 2) {
                const u64 below = __shfl_up_sync(ALL_LANES, upto, distance);
                if (lane_index() >= distance) upto += below;
            }
            const u32 past = __ballot_sync(ALL_LANES, before + upto > target);
            if (past) {
                if (lane_index() == 0) found = first + __ffs(past) - 1;
                break;
            }
            before += __shfl_sync(ALL_LANES, upto, WARP - 1);
        }
    }
    __syncthreads();
    const int token = found;
    __syncthreads();  // `found` belongs to the next call from here on
    return token;
}

// Where in a histogram, from its upper end, the sum reaches `wanted`; `wanted` becomes what is left.
__device__ __forceinline__ u32 digit_that_reaches(const u64* histogram, u64& wanted) {
    u32 digit = 255;
    while (digit > 0 && histogram[digit] < wanted) wanted -= histogram[digit--];
    return digit;
}

// Rank of the last token of the smallest leading set whose measure reaches `wanted` (at least 1).
template <typename Measure> __device__ u64 cut(const Row& row, u64 wanted) {
    __shared__ u64 histogram[256];
    u32 prefix = 0, known = 0;  // bits of the key that are settled
    for (int shift = 24; shift >= 0; shift -= 8) {
        for (int i = threadIdx.x; i < 256; i += blockDim.x) histogram[i] = 0;
        __syncthreads();
        for (int i = threadIdx.x; i < row.size; i += blockDim.x) {
            const u32 key = key_of(row.scores[i]);
            if ((key & known) == prefix && row.keeps(i))
                atomicAdd(&histogram[key >> shift & 255], Measure::of(row, i));
        }
        __syncthreads();
        prefix |= digit_that_reaches(histogram, wanted) << shift;
        known |= 255u << shift;
        __syncthreads();
    }
    const int last = locate(row.size, wanted - 1, [&](int i) {
        return key_of(row.scores[i]) == prefix && row.keeps(i) ? Measure::of(row, i) : 0;
    });
    return u64(prefix) << 32 | u32(~last);
}

// --- random numbers --------------------------------------------------------------------------------

// Philox4x32-10 (Salmon et al., 2011): 53 random bits, as src/cullama/sampling/philox.py makes them.
__device__ u64 random_bits(const SampleParams& params) {
    u32 a = params.position, b = params.sample_index, c = 0, d = 0, low = params.seed_low, high = params.seed_high;
#pragma unroll 1
    for (int round = 0; round < 10; round++) {
        const u32 first = 0xD2511F53u, second = 0xCD9E8D57u;
        const u32 next_a = __umulhi(second, c) ^ b ^ low, next_c = __umulhi(first, a) ^ d ^ high;
        b = second * c;
        d = first * a;
        a = next_a;
        c = next_c;
        low += 0x9E3779B9u;
        high += 0xBB67AE85u;
    }
    return u64(a >> 5) << 26 | b >> 6;
}

// --- the parts of a draw ---------------------------------------------------------------------------

// A copy of the row with bias and penalties applied; each list names a token once.
__device__ void adjust(float* scores, const float* logits, int size, const SampleParams* params, const Bias* biases,
                       const Seen* seen) {
    const int first_bias = blockIdx.x ? params[-1].biases : 0, first_seen = blockIdx.x ? params[-1].seen : 0;
    for (int i = threadIdx.x; i < size; i += blockDim.x) scores[i] = logits[i];
    __syncthreads();
    for (int i = first_bias + threadIdx.x; i < params->biases; i += blockDim.x)
        scores[biases[i].token] += biases[i].bias;
    __syncthreads();
    const float repetition = params->repetition_penalty;
    for (int i = first_seen + threadIdx.x; i < params->seen; i += blockDim.x) {
        float score = scores[seen[i].token];
        score = score > 0 ? score / repetition : score * repetition;
        if (seen[i].count) score -= params->presence_penalty + params->frequency_penalty * seen[i].count;
        scores[seen[i].token] = score;
    }
    __syncthreads();
}

__device__ int draw(Row row, const SampleParams& params) {
    if (params.top_k > 0 && params.top_k < row.size) row.last = cut<Count>(row, params.top_k);
    if (params.top_p) row.last = cut<Weight>(row, __umul64hi(params.top_p, total<Weight>(row)) + 1);
    const auto kept = [&](int i) {
        return row.keeps(i) && row.weight(i) >= params.min_p ? Weight::of(row, i) : 0;
    };
    u64 sum = 0;
    for (int i = threadIdx.x; i < row.size; i += blockDim.x) sum += kept(i);
    sum = block_reduce<Sum>(sum, u64(0));
    return locate(row.size, __umul64hi(random_bits(params) << 11, sum), kept);
}

// Natural logarithms of probability under the model itself.
__device__ void report(Drawn* drawn, const float* logits, int size, int token, int wanted) {
    const float best = logits[token_of(first_after(logits, size, BEFORE_ALL))];
    float sum = 0.f;
    for (int i = threadIdx.x; i < size; i += blockDim.x) sum += expf(logits[i] - best);
    const float log_sum = logf(block_reduce<Sum>(sum, 0.f));
    if (threadIdx.x == 0) drawn->logprob = logits[token] - best - log_sum;
    u64 rank = BEFORE_ALL;
    for (int n = 0; n < wanted; n++) {
        rank = first_after(logits, size, rank);
        if (threadIdx.x > 0) continue;
        drawn->top[n] = token_of(rank);
        drawn->top_logprobs[n] = logits[token_of(rank)] - best - log_sum;
    }
}

__device__ __forceinline__ bool is_finite(float v) { return fabsf(v) < infinity(); }

extern "C" __global__ void sample_f32(Drawn* drawn, const float* logits, float* scratch, const SampleParams* params,
                                      const Bias* biases, const Seen* seen, int size) {
    params += blockIdx.x;
    drawn += blockIdx.x;
    logits += size_t(blockIdx.x) * size;
    const float* scores = logits;
    int token = token_of(first_after(scores, size, BEFORE_ALL));
    float best = scores[token];
    if (is_finite(best) && params->scratch >= 0) {
        float* changed = scratch + size_t(params->scratch) * size;
        adjust(changed, logits, size, params, biases, seen);
        scores = changed;
        token = token_of(first_after(scores, size, BEFORE_ALL));
        best = scores[token];
    }
    if (is_finite(best) && params->temperature > 0)
        token = draw(Row{scores, size, best, fmaxf(params->temperature, 1e-30f), 0}, *params);
    if (threadIdx.x == 0) {
        drawn->token = token;
        drawn->best = best;
    }
    if (is_finite(best) && params->logprobs >= 0) report(drawn, logits, size, token, params->logprobs);
}
