// sample: draws one token for each row of logits, by the rules of src/cullama/sampling/sampler.py
//   scores = logits (masked, + bias, - penalties); weights = exp((score - best) / temperature). Of
//   these it keeps the top k, then the smallest set that reaches top_p, then those of at least
//   min_p, and inverts the CDF of the rest, in order of token ids, at a random number. Where a
//   row's token is given, nothing is drawn: only its log probability is computed. logits [R, V]
//   float32, params [R], masks [M, V / 32] of M rows -> drawn [R] Launch: one block for each row.
//   `logits` are only read; `scratch` holds changed scores.
//
// Weights are summed as integers, 2^40 for the likeliest token: integer sums do not depend on the
// order of additions, so neither does a draw. A token of less than 2^-40 of the largest weight is
// never drawn. Top-k and top-p both keep the first tokens in the order of descending scores and,
// among equal scores, ascending ids. The last one kept is found by radix select: digit by digit,
// from histograms of 8 bits of the score, without sorting.
#include "common.cuh"

constexpr int MAX_LOGPROBS = 20;
constexpr float MAX_WEIGHT = 1099511627776.f;  // 2^40, the weight of the likeliest token

// The sample params of one row, as src/cullama/cuda/sampling.py packs them: 16 words.
struct SampleParams {
  float temperature;  // 0: greedy; below 0: the token is given
  int top_k;          // 0: all; or the token that is given
  u64 top_p;          // in units of 2^-64; 0: all
  float min_p;        // 0: all
  float repetition_penalty, presence_penalty, frequency_penalty;
  u32 seed_low, seed_high, position, sample_index;  // key and counter of the random number
  int biases, seen;  // where the row's list entries end; they begin where the row before ends
  // Row of `scratch` for changed scores, -1: scores are the logits; and row of `masks`, if there
  // are so many.
  int scratch;
  int logprobs;  // how many top log probabilities to report; -1: none at all
};

struct Bias {
  int token;
  float bias;
};
struct Seen {
  int token, count;  // a token of the prompt or the output; how often it is in the output
};

struct Drawn {
  int token;
  float best;  // the largest score; where it is not finite, `token` was not drawn
  float logprob;
  int top[MAX_LOGPROBS];
  float top_logprobs[MAX_LOGPROBS];
};

// --- order of tokens -----------------------------------------------------------------------------

// Larger for larger scores; largest for NaN.
__device__ __forceinline__ u32 score_key(float score) {
  if (score != score) return 0xfffffffeu;
  const u32 bits = __float_as_uint(score + 0.f);  // -0 counts as 0
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
// Larger for tokens that come first: by descending score, then by ascending id.
__device__ __forceinline__ u64 sort_key(float score, int token) {
  return u64(score_key(score)) << 32 | u32(~token);
}
__device__ __forceinline__ int token_of(u64 key) { return int(~u32(key)); }

// The largest sort key below `limit`.
__device__ u64 next_key(const float* scores, int size, u64 limit) {
  u64 next = 0;
  for (int i = threadIdx.x; i < size; i += blockDim.x) {
    const u64 key = sort_key(scores[i], i);
    if (key < limit) next = Max::of(next, key);
  }
  return block_reduce<Max>(next, u64(0));
}
constexpr u64 NO_LIMIT = ~u64(0);

// --- top-k and top-p: radix select ---------------------------------------------------------------

// Scores of a row, and which tokens are kept so far.
struct Row {
  const float* scores;
  int size;
  float best, temperature;
  u64 last;  // sort key of the last token that is kept
  __device__ __forceinline__ bool keeps(int i) const { return sort_key(scores[i], i) >= last; }
  __device__ __forceinline__ float weight(int i) const {
    return expf((scores[i] - best) / temperature);
  }
};
struct Count {
  static __device__ __forceinline__ u64 of(const Row&, int) { return 1; }
};
struct Weight {
  static __device__ __forceinline__ u64 of(const Row& row, int i) {
    return u64(row.weight(i) * MAX_WEIGHT);
  }
};

template <typename Measure>
__device__ u64 total(const Row& row) {
  u64 sum = 0;
  for (int i = threadIdx.x; i < row.size; i += blockDim.x)
    if (row.keeps(i)) sum += Measure::of(row, i);
  return block_reduce<Sum>(sum, u64(0));
}

// Inverts a CDF: returns the first token at which the sum of measures, by id, exceeds `target`.
// Each warp sums a range of ids; then the warp whose range holds the token searches it.
template <typename Measure>
__device__ int inverse_cdf(int size, u64 target, Measure measure) {
  __shared__ u64 warp_sums[WARP];
  __shared__ int found;
  const int ids_per_warp = (size + blockDim.x - 1) / blockDim.x * WARP;
  const int begin = warp_index() * ids_per_warp, end = min(begin + ids_per_warp, size);
  u64 sum = 0;
  for (int i = begin + lane_index(); i < end; i += WARP) sum += measure(i);
  sum = warp_reduce<Sum>(sum);
  if (lane_index() == 0) warp_sums[warp_index()] = sum;
  if (threadIdx.x == 0) found = size - 1;
  __syncthreads();
  u64 before = 0;
  for (int warp = 0; warp < warp_index(); warp++) before += warp_sums[warp];
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
  __syncthreads();  // from here on the next call may write `found`
  return token;
}

// The digit at which a histogram, summed from its upper end, reaches `target`; subtracts from
// `target` what the digits above hold.
__device__ __forceinline__ u32 select_digit(const u64* histogram, u64& target) {
  u32 digit = 255;
  while (digit > 0 && histogram[digit] < target) target -= histogram[digit--];
  return digit;
}

// The sort key of the last token of the smallest leading set whose measure reaches `target` >= 1.
template <typename Measure>
__device__ u64 radix_select(const Row& row, u64 target) {
  __shared__ u64 histogram[256];
  u32 prefix = 0, known = 0;  // the bits of the score's key found so far, and their mask
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (int i = threadIdx.x; i < 256; i += blockDim.x) histogram[i] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < row.size; i += blockDim.x) {
      const u32 key = score_key(row.scores[i]);
      if ((key & known) == prefix && row.keeps(i))
        atomicAdd(&histogram[key >> shift & 255], Measure::of(row, i));
    }
    __syncthreads();
    prefix |= select_digit(histogram, target) << shift;
    known |= 255u << shift;
    __syncthreads();
  }
  const int last = inverse_cdf(row.size, target - 1, [&](int i) {
    return score_key(row.scores[i]) == prefix && row.keeps(i) ? Measure::of(row, i) : 0;
  });
  return u64(prefix) << 32 | u32(~last);
}

// --- random numbers ------------------------------------------------------------------------------

// 53 random bits from Philox4x32-10 (Salmon et al., 2011), as in src/cullama/sampling/philox.py.
__device__ u64 random_bits(const SampleParams& params) {
  u32 a = params.position, b = params.sample_index, c = 0, d = 0, low = params.seed_low,
      high = params.seed_high;
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

// --- steps of a draw -----------------------------------------------------------------------------

// Writes logits with mask, biases and penalties applied to `scores`. No list has a token twice; a
// mask has a bit for each token, or there is none.
__device__ void change_scores(float* scores, const float* logits, int size,
                              const SampleParams* params, const Bias* biases, const Seen* seen,
                              const u32* mask) {
  const int first_bias = blockIdx.x ? params[-1].biases : 0,
            first_seen = blockIdx.x ? params[-1].seen : 0;
  for (int i = threadIdx.x; i < size; i += blockDim.x)
    scores[i] = mask == nullptr || mask[i / 32] >> i % 32 & 1 ? logits[i] : -infinity();
  __syncthreads();
  for (int i = first_bias + threadIdx.x; i < params->biases; i += blockDim.x)
    scores[biases[i].token] += biases[i].bias;
  __syncthreads();
  const float repetition = params->repetition_penalty;
  for (int i = first_seen + threadIdx.x; i < params->seen; i += blockDim.x) {
    float score = scores[seen[i].token];
    score = score > 0 ? score / repetition : score * repetition;
    if (seen[i].count)
      score -= params->presence_penalty + params->frequency_penalty * seen[i].count;
    scores[seen[i].token] = score;
  }
  __syncthreads();
}

__device__ int draw(Row row, const SampleParams& params) {
  if (params.top_k > 0 && params.top_k < row.size)
    row.last = radix_select<Count>(row, params.top_k);
  if (params.top_p)
    row.last = radix_select<Weight>(row, __umul64hi(params.top_p, total<Weight>(row)) + 1);
  const auto kept = [&](int i) {
    return row.keeps(i) && row.weight(i) >= params.min_p ? Weight::of(row, i) : 0;
  };
  u64 sum = 0;
  for (int i = threadIdx.x; i < row.size; i += blockDim.x) sum += kept(i);
  sum = block_reduce<Sum>(sum, u64(0));
  return inverse_cdf(row.size, __umul64hi(random_bits(params) << 11, sum), kept);
}

// Writes the natural log probabilities of `token` and of the top `count`, from the logits as given.
__device__ void write_logprobs(Drawn* drawn, const float* logits, int size, int token, int count) {
  const float best = logits[token_of(next_key(logits, size, NO_LIMIT))];
  float sum = 0.f;
  for (int i = threadIdx.x; i < size; i += blockDim.x) sum += expf(logits[i] - best);
  const float log_sum = logf(block_reduce<Sum>(sum, 0.f));
  if (threadIdx.x == 0) drawn->logprob = logits[token] - best - log_sum;
  u64 key = NO_LIMIT;
  for (int n = 0; n < count; n++) {
    key = next_key(logits, size, key);
    if (threadIdx.x > 0) continue;
    drawn->top[n] = token_of(key);
    drawn->top_logprobs[n] = logits[token_of(key)] - best - log_sum;
  }
}

__device__ __forceinline__ bool is_finite(float v) { return fabsf(v) < infinity(); }

extern "C" __global__ void sample_f32(Drawn* drawn, const float* logits, float* scratch,
                                      const SampleParams* params, const Bias* biases,
                                      const Seen* seen, const u32* masks, int masked, int size) {
  params += blockIdx.x;
  drawn += blockIdx.x;
  logits += size_t(blockIdx.x) * size;
  const float* scores = logits;
  int token = token_of(next_key(scores, size, NO_LIMIT));
  float best = scores[token];
  if (is_finite(best) && params->scratch >= 0) {
    float* changed = scratch + size_t(params->scratch) * size;
    const u32* mask =
        params->scratch < masked ? masks + size_t(params->scratch) * ((size + 31) / 32) : nullptr;
    change_scores(changed, logits, size, params, biases, seen, mask);
    scores = changed;
    token = token_of(next_key(scores, size, NO_LIMIT));
    best = scores[token];
  }
  if (params->temperature < 0)
    token = params->top_k;
  else if (is_finite(best) && params->temperature > 0)
    token = draw(Row{scores, size, best, fmaxf(params->temperature, 1e-30f), 0}, *params);
  if (threadIdx.x == 0) {
    drawn->token = token;
    drawn->best = best;
  }
  if (is_finite(best) && params->logprobs >= 0)
    write_logprobs(drawn, logits, size, token, params->logprobs);
}
