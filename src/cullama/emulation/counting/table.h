// table.h - a hash table of 64-bit keys, for sectors, words and visits.
//
// Open addressing with linear probing. Keys are not 0; nothing is removed but everything at once.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <algorithm>
#include <vector>

namespace emulated {

template <class Value>
class Table {
 public:
  // The value of a key, default-made if it is new.
  Value& at(uint64_t key, bool& is_new) {
    if (2 * used_ >= keys_.size()) grow();
    const size_t i = place_of(key);
    is_new = !keys_[i];
    if (is_new) keys_[i] = key, values_[i] = {}, used_++;
    return values_[i];
  }
  void clear() {
    if (used_) std::fill(keys_.begin(), keys_.end(), 0);
    used_ = 0;
  }

 private:
  size_t place_of(uint64_t key) const {
    size_t i = key * 0x9e3779b97f4a7c15ull >> 20 & (keys_.size() - 1);
    while (keys_[i] && keys_[i] != key) i = (i + 1) & (keys_.size() - 1);
    return i;
  }
  void grow() {
    Table larger;
    larger.keys_.assign(std::max<size_t>(256, 4 * keys_.size()), 0);
    larger.values_.resize(larger.keys_.size());
    bool is_new;
    for (size_t i = 0; i < keys_.size(); i++)
      if (keys_[i]) larger.at(keys_[i], is_new) = values_[i];
    std::swap(*this, larger);
  }
  std::vector<uint64_t> keys_;
  std::vector<Value> values_;
  size_t used_ = 0;
};

}  // namespace emulated
