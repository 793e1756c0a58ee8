// shadow.h - what is known of each place in memory: who wrote it last, and who has read it since.
//
// Finds races in one run, whatever the order of threads: two accesses of one place, one of them a
// write, that no barrier, fence or copy's wait puts in order. Finds reads of shared memory that
// nothing wrote, too. It knows neither PTX nor lines, only the numbers of accesses. Counted builds
// contain it (counters.h), and use it when asked to.
//
// Time is a count of the meetings of threads. What a thread may rely on is, for each warp and for
// each lane of its own warp, the time of the last meeting through which it learned of them: an
// access of theirs is in order when it is not later than that.
#pragma once
#include <string>

#include "../counting/table.h"

namespace emulated {

enum Order { WEAK, STRONG, RELEASE };  // of an access: plain; volatile, relaxed or atomic; and more
enum Fault { RACE_OF_THREADS, RACE_OF_LANES, RACE_OF_BLOCKS, UNWRITTEN, OPEN_COPY };

// One access of a place; `access` is its number plus 1, and 0 where there was none.
struct Mark {
  uint32_t block, time, access;
  uint16_t thread;
  uint8_t bytes;  // a mask
  bool is_strong : 1, is_open : 1;
};

// Two bytes: the last write, and the last reads by any thread, another lane, and another warp.
struct Place {
  uint32_t block;
  uint8_t written;                                // bytes that the block has written
  Mark write, reads[3], other_write, other_read;  // of the block; the last ones of other blocks
};
constexpr unsigned PLACE = 2, CHUNK_OF_PLACES = 32;

struct Found {
  Fault fault;
  Mark earlier, later;
  uint64_t address, count;
};

class Shadow {
 public:
  bool is_on = false;

  void begin() {
    places_.clear();
    for (Place* chunk : chunks_) free(chunk);
    chunks_.clear();
    shared_.resize(SHARED_WINDOW / PLACE);  // what earlier launches left is of other blocks
    base_ = last_block_;
    found_.clear();
    known_faults_.clear();
    release_of_.clear();
    releases_.clear();
    suspects_ = 0;
  }

  void begin_block() {
    const Index at = machine.block, size = machine.grid;
    block_ = base_ + 1 + at.x + size.x * (at.y + size.y * at.z);
    last_block_ = std::max(last_block_, block_);
    now_++;
    arrived_ = 0;
    has_fence_ = false;
    known_blocks_.clear();
    for (unsigned i = 0; i < MAX_THREADS; i++) open_[i].clear(), groups_[i].clear();
  }

  void end_block() { settle(); }

  void access(const Thread& self, uint32_t number, unsigned bytes, bool is_write, bool is_read,
              bool is_copy, Order order, unsigned char* pointer) {
    settle();
    const uint64_t address = uint64_t(pointer);
    const bool is_in_shared = is_shared(address);
    if (!is_in_shared && order) synchronise_blocks(address, order == RELEASE);
    Mark mine = {block_, now_, number + 1, uint16_t(self.number), 0, order != WEAK, is_copy};
    for (uint64_t at = address; at < address + bytes; at = (at / PLACE + 1) * PLACE) {
      const uint64_t end = std::min<uint64_t>(address + bytes, (at / PLACE + 1) * PLACE);
      mine.bytes = uint8_t((1 << (end - at)) - 1) << at % PLACE;
      Place& place = is_in_shared ? shared_[(at - uint64_t(machine.shared)) / PLACE] : place_of(at);
      enter(place, is_in_shared);
      if (is_read && is_in_shared && (place.written & mine.bytes) != mine.bytes)
        add(UNWRITTEN, {}, mine, at);
      check(self, place, mine, is_write, at);
      if (is_write) write(place, mine, is_copy);
      if (is_read && !is_write) read(place, mine);
    }
    remember(pointer, bytes);
  }

  void fence() { has_fence_ = true; }
  void commit_copies(const Thread& self) {
    groups_[self.number].push_back(std::move(open_[self.number]));
    open_[self.number].clear();
  }
  void wait_for_copies(const Thread& self, unsigned left) {
    auto& groups = groups_[self.number];
    for (; groups.size() > left; groups.erase(groups.begin()))
      for (Place* place : groups.front())
        if (place->write.is_open && place->write.thread == self.number)
          place->write.is_open = false, place->write.time = now_;
  }

  // Lanes of a warp that have met in a way that orders memory.
  void meet(unsigned warp, uint32_t lanes) {
    auto& known = lanes_[warp];
    for (uint32_t i = lanes; i; i &= i - 1)
      for (uint32_t j = lanes; j; j &= j - 1) known[__builtin_ctz(i)][__builtin_ctz(j)] = now_;
    now_++;
  }
  // Threads that arrive at a barrier and do not wait: those that wait learn of their warps.
  void arrive(unsigned warp) { arrived_ |= 1u << warp; }
  void meet_in_block(unsigned warps, const uint32_t* lanes, const uint32_t* living) {
    uint32_t here = 0, all;
    for (unsigned i = 0; i < warps; i++) here |= uint32_t(lanes[i] != 0) << i;
    all = here | arrived_;
    uint32_t latest[MAX_THREADS / WARP] = {};
    for (uint32_t i = all; i; i &= i - 1)
      for (unsigned j = 0; j < warps; j++)
        latest[j] = std::max(latest[j], warps_[__builtin_ctz(i)][j]);
    for (uint32_t i = here; i; i &= i - 1) {
      const unsigned warp = unsigned(__builtin_ctz(i));
      for (unsigned j = 0; j < warps; j++)
        if (j != warp) warps_[warp][j] = all >> j & 1 ? now_ : latest[j];
      if ((lanes[warp] & living[warp]) == living[warp])
        warps_[warp][warp] = now_;
      else
        meet(warp, lanes[warp]);
    }
    arrived_ = 0;
    now_++;
  }

  // JSON: fault, accesses, threads and blocks of the earlier and the later one, address, count.
  std::string report() const {
    std::string text = "[";
    for (const Found& each : found_) {
      const Mark &first = each.earlier, &second = each.later;
      const uint32_t block = first.block - base_, its_block = second.block - base_;
      const uint64_t numbers[] = {each.fault,   first.access,  second.access,
                                  first.thread, second.thread, block,
                                  its_block,    each.address,  each.count};
      text += text.size() > 1 ? ", [" : "[";
      for (unsigned i = 0; i < 9; i++) text += (i ? ", " : "") + std::to_string(numbers[i]);
      text += "]";
    }
    return text + "]";
  }
  // The last write to a byte of global memory.
  Mark writer(uint64_t address) {
    bool is_new;
    Place* chunk = places_.at(address / (PLACE * CHUNK_OF_PLACES) + 1, is_new);
    if (is_new || !chunk) return {};
    const Place& place = chunk[address / PLACE % CHUNK_OF_PLACES];
    return place.write.access ? place.write : place.other_write;
  }

 private:
  Place& place_of(uint64_t address) {
    bool is_new;
    Place*& chunk = places_.at(address / (PLACE * CHUNK_OF_PLACES) + 1, is_new);
    if (is_new || !chunk) {
      chunk = static_cast<Place*>(calloc(CHUNK_OF_PLACES, sizeof(Place)));
      chunks_.push_back(chunk);
    }
    return chunk[address / PLACE % CHUNK_OF_PLACES];
  }

  void enter(Place& place, bool is_in_shared) {
    if (place.block == block_) return;
    if (is_in_shared) place = {};
    if (place.write.access) place.other_write = place.write;
    if (place.reads[0].access) place.other_read = place.reads[0];
    place.write = place.reads[0] = place.reads[1] = place.reads[2] = {};
    place.written = 0;
    place.block = block_;
  }

  void check(const Thread& self, const Place& place, const Mark& mine, bool is_write, uint64_t at) {
    if (!is_write) {
      check_one(self, place.write, mine, at);
      check_block(place.other_write, mine, at);
      return;
    }
    for (const Mark& each : place.reads) check_one(self, each, mine, at);
    check_block(place.other_read, mine, at);
    is_second_write_ = true;
    check_one(self, place.write, mine, at);
    check_block(place.other_write, mine, at);
    is_second_write_ = false;
  }

  bool overlaps(const Mark& other, const Mark& mine) const {
    return other.access && (other.bytes & mine.bytes) && !(other.is_strong && mine.is_strong);
  }
  bool is_ordered(const Thread& self, const Mark& other) const {
    const unsigned warp = other.thread / WARP, lane = other.thread % WARP;
    uint32_t known = warps_[self.warp][warp];
    if (warp == self.warp) known = std::max(known, lanes_[warp][self.lane][lane]);
    return other.time <= known;
  }
  void check_one(const Thread& self, const Mark& other, const Mark& mine, uint64_t at) {
    if (!overlaps(other, mine)) return;
    if (other.is_open)
      add(OPEN_COPY, other, mine, at);
    else if (other.thread != mine.thread && !is_ordered(self, other))
      add(other.thread / WARP == self.warp ? RACE_OF_LANES : RACE_OF_THREADS, other, mine, at);
  }
  void check_block(const Mark& other, const Mark& mine, uint64_t at) {
    if (!overlaps(other, mine)) return;
    if (std::find(known_blocks_.begin(), known_blocks_.end(), other.block) == known_blocks_.end())
      add(RACE_OF_BLOCKS, other, mine, at);
  }

  void write(Place& place, const Mark& mine, bool is_copy) {
    place.write = mine;
    place.written |= mine.bytes;
    place.reads[0] = place.reads[1] = place.reads[2] = {};
    if (is_copy) open_[mine.thread].push_back(&place);
  }
  void read(Place& place, const Mark& mine) {
    const Mark& last = place.reads[0];
    if (last.access && last.thread != mine.thread)
      place.reads[last.thread / WARP == mine.thread / WARP ? 1 : 2] = last;
    place.reads[0] = mine;
  }

  // A block that has fenced its writes and then changes an atomic tells of them to each block that
  // changes it later.
  void synchronise_blocks(uint64_t address, bool is_release) {
    bool is_new;
    uint32_t& number = release_of_.at(address + 1, is_new);
    if (is_new) {
      number = uint32_t(releases_.size());
      releases_.emplace_back();
    }
    auto& released = releases_[number];
    for (uint32_t block : released)
      if (std::find(known_blocks_.begin(), known_blocks_.end(), block) == known_blocks_.end())
        known_blocks_.push_back(block);
    const bool is_listed = !released.empty() && released.back() == block_;
    if ((is_release || has_fence_) && !is_listed) released.push_back(block_);
  }

  void add(Fault fault, const Mark& earlier, const Mark& later, uint64_t address) {
    bool is_new;
    if (is_second_write_ && !later.is_open) {
      if (!suspects_) suspect_ = {fault, earlier, later, address, 0};
      suspects_++;
      return;
    }
    const uint64_t key =
        (uint64_t(fault) << 56 | uint64_t(earlier.access) << 28 | later.access) + 1;
    uint32_t& number = known_faults_.at(key, is_new);
    if (is_new) {
      number = uint32_t(found_.size());
      found_.push_back({fault, earlier, later, address, 0});
    }
    found_[number].count++;
  }

  // Two writes do no harm where they write the same bytes. Whether they do shows once the second
  // one is done: at the next access.
  void remember(const unsigned char* pointer, unsigned bytes) {
    if (!suspects_) return;
    suspected_ = pointer;
    suspected_bytes_ = bytes;
    memcpy(before_, pointer, bytes);
  }
  void settle() {
    if (!suspects_) return;
    suspects_ = 0;
    if (memcmp(before_, suspected_, suspected_bytes_))
      add(suspect_.fault, suspect_.earlier, suspect_.later, suspect_.address);
  }

  Table<Place*> places_;
  std::vector<Place*> chunks_;
  std::vector<Place> shared_;
  std::vector<Found> found_;
  Table<uint32_t> known_faults_, release_of_;
  std::vector<std::vector<uint32_t>> releases_;
  std::vector<uint32_t> known_blocks_;
  std::vector<Place*> open_[MAX_THREADS];
  std::vector<std::vector<Place*>> groups_[MAX_THREADS];
  Found suspect_ = {};
  unsigned suspects_ = 0, suspected_bytes_ = 0;
  const unsigned char* suspected_ = nullptr;
  unsigned char before_[16];
  uint32_t base_ = 0, last_block_ = 0;  // blocks of earlier launches; of all
  uint32_t block_ = 0, now_ = 1, arrived_ = 0;
  bool has_fence_ = false, is_second_write_ = false;
  uint32_t warps_[MAX_THREADS / WARP][MAX_THREADS / WARP] = {};
  uint32_t lanes_[MAX_THREADS / WARP][WARP][WARP] = {};
};
static Shadow shadow;

}  // namespace emulated
