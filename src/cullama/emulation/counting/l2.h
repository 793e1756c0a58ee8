// l2.h - what a GPU's second-level cache holds, over all launches of the process.
//
// A sector is there if it was touched within the last bytes of traffic that the cache has room for.
// Neither its ways nor its parts are known.
#pragma once
#include "table.h"

namespace emulated {

class L2 {
 public:
  void resize(uint64_t bytes) {
    sectors_ = bytes / 32;
    touched_.clear();
    clock_ = 0;
  }
  // Touches a sector; returns whether it was there.
  bool touch(uint64_t sector) {
    bool is_new;
    uint64_t& last = touched_.at(sector, is_new);
    const bool is_hit = !is_new && clock_ - last < sectors_;
    if (!is_hit) clock_++;
    last = clock_;
    return is_hit;
  }

 private:
  Table<uint64_t> touched_;
  uint64_t sectors_ = (50 << 20) / 32, clock_ = 0;
};

}  // namespace emulated
