// Device memory and pinned host memory, and the copies between them.
//
// An allocation lies between two guard pages, its end 256-byte aligned against the second, and is
// filled with 0xFF (NaN in every float type) unless the knob "fill" is 0. An address is never
// reused in a process, so a stale pointer cannot become valid again. Copies check for live
// allocations when they are called and again when they run.
#include <sys/mman.h>

#include <cstring>

#include "calls.h"

namespace {

const size_t GUARD = 4096;     // one page
const size_t ALIGNMENT = 256;  // what the real allocator promises

size_t rounded_up(size_t size, size_t unit) { return (size + unit - 1) / unit * unit; }

CUdeviceptr address_of(const void* pointer) { return reinterpret_cast<CUdeviceptr>(pointer); }
void* pointer_to(CUdeviceptr address) { return reinterpret_cast<void*>(address); }

// A mapping with a guard page at either end; null where the host itself has no memory left.
Allocation mapped_between_guards(size_t size) {
  Allocation made{nullptr, nullptr, rounded_up(size, GUARD) + 2 * GUARD, size,
                  rounded_up(size, ALIGNMENT)};
  void* mapping =
      mmap(nullptr, made.mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) return made;
  made.mapping = static_cast<char*>(mapping);
  mprotect(made.mapping + GUARD, made.mapped - 2 * GUARD, PROT_READ | PROT_WRITE);
  return made;
}

// Frees the memory but keeps the addresses, so that every later access faults.
void retire(const Allocation& allocation) {
  mmap(allocation.mapping, allocation.mapped, PROT_NONE,
       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

bool slack_is_untouched(CUdeviceptr address, const Allocation& allocation) {
  auto* bytes = static_cast<unsigned char*>(pointer_to(address));
  for (size_t i = allocation.size; i < allocation.rounded; i++)
    if (bytes[i] != 0xFF) return false;
  return true;
}

void remove(std::map<CUdeviceptr, Allocation>::iterator position) {
  position->second.owner->used -= position->second.rounded;
  retire(position->second);
  driver().allocations.erase(position);
  driver().remembered.fill({});
}

std::string described(CUdeviceptr address, size_t size) {
  char text[96];
  snprintf(text, sizeof text, "%zu bytes at 0x%llx are not inside one live allocation", size,
           address);
  return text;
}

CUresult check_range(const char* call, CUdeviceptr address, size_t size) {
  if (is_live(address, size)) return SUCCESS;
  return failed(INVALID_VALUE, std::string(call) + ": " + described(address, size));
}

// For work that was checked when it was queued: only a graph's memory can be freed since.
CUresult check_range_now(CUdeviceptr address, size_t size) {
  if (is_live(address, size)) return SUCCESS;
  return failed(ILLEGAL_ADDRESS, "queued copy or fill: " + described(address, size));
}

Action copy_to_device(CUdeviceptr target, const void* source, size_t size) {
  return [=]() -> CUresult {
    if (CUresult code = check_range_now(target, size)) return code;
    memcpy(pointer_to(target), source, size);
    return SUCCESS;
  };
}

Action copy_to_host(void* target, CUdeviceptr source, size_t size) {
  return [=]() -> CUresult {
    if (CUresult code = check_range_now(source, size)) return code;
    memcpy(target, pointer_to(source), size);
    return SUCCESS;
  };
}

// The copy of pageable memory: its bytes are taken now, as the driver does through its own buffer.
Action copy_staged(CUdeviceptr target, const void* source, size_t size) {
  auto bytes = std::make_shared<std::vector<char>>(static_cast<const char*>(source),
                                                   static_cast<const char*>(source) + size);
  return [=]() -> CUresult { return copy_to_device(target, bytes->data(), bytes->size())(); };
}

template <class Element>
Action fill(CUdeviceptr target, Element value, size_t count) {
  return [=]() -> CUresult {
    if (CUresult code = check_range_now(target, count * sizeof(Element))) return code;
    std::fill_n(static_cast<Element*>(pointer_to(target)), count, value);
    return SUCCESS;
  };
}

// A blocking copy goes through the legacy stream and waits for it: not for non-blocking streams.
CUresult copy_now(Context& context, Action copy) {
  if (CUresult code = refuse_legacy_while_capturing(context)) return code;
  if (CUresult code = refuse_while_capturing()) return code;
  return finish(enqueue(*context.legacy, std::move(copy)));
}

}  // namespace

bool is_live(CUdeviceptr address, size_t size) {
  auto& remembered = driver().remembered;
  for (const Range& range : remembered)
    if (address >= range.begin && address < range.end) return size <= range.end - address;
  auto above = driver().allocations.upper_bound(address);
  if (above == driver().allocations.begin()) return false;
  const auto& [begin, allocation] = *--above;
  if (address >= begin + allocation.size) return false;
  remembered[driver().next_to_forget++ % remembered.size()] = {begin, begin + allocation.size};
  return size <= begin + allocation.size - address;
}

bool is_pinned(const void* address, size_t size) {
  auto* bytes = static_cast<const char*>(address);
  auto above = driver().pinned.upper_bound(bytes);
  if (above == driver().pinned.begin()) return false;
  const auto& [begin, allocation] = *--above;
  return bytes + size <= begin + allocation.size;
}

std::vector<std::vector<char>> contents_of_memory() {
  std::vector<std::vector<char>> all;
  for (const auto& [address, allocation] : driver().allocations) {
    auto* bytes = static_cast<const char*>(pointer_to(address));
    all.emplace_back(bytes, bytes + allocation.size);
  }
  return all;
}

// In words of four bytes. Nothing was allocated or freed since.
std::vector<unsigned long long> changes_since(const std::vector<std::vector<char>>& contents) {
  std::vector<unsigned long long> ranges;
  auto before = contents.begin();
  for (const auto& [address, allocation] : driver().allocations) {
    auto* now = static_cast<const char*>(pointer_to(address));
    for (size_t i = 0; i < allocation.size; i += 4) {
      const size_t size = std::min<size_t>(4, allocation.size - i);
      if (!memcmp(now + i, before->data() + i, size)) continue;
      if (ranges.empty() || ranges.end()[-2] + ranges.back() != address + i)
        ranges.insert(ranges.end(), {address + i, 0});
      ranges.back() += size;
    }
    ++before;
  }
  return ranges;
}

void release_memory(Context* owner) {
  auto& allocations = driver().allocations;
  for (auto item = allocations.begin(); item != allocations.end();) {
    auto position = item++;
    if (!owner || position->second.owner == owner) remove(position);
  }
  auto& pinned = driver().pinned;
  for (auto item = pinned.begin(); item != pinned.end();) {
    auto position = item++;
    if (owner && position->second.owner != owner) continue;
    retire(position->second);
    pinned.erase(position);
  }
}

DRIVER_API CUresult cuMemGetInfo_v2(size_t* free, size_t* total) {
  return in_context("cuMemGetInfo", [&](Context& context) -> CUresult {
    if (!free || !total) return INVALID_VALUE;
    *total = number_of_device("memory_bytes", context.device);
    *free = *total - std::min(*total, context.used);
    return SUCCESS;
  });
}

DRIVER_API CUresult cuMemAlloc_v2(CUdeviceptr* address, size_t size) {
  return outside_capture("cuMemAlloc", [&](Context& context) -> CUresult {
    if (!address || size == 0) return INVALID_VALUE;
    size_t total = number_of_device("memory_bytes", context.device);
    if (size > total || context.used + rounded_up(size, ALIGNMENT) > total) return OUT_OF_MEMORY;
    Allocation made = mapped_between_guards(size);
    if (!made.mapping) return OUT_OF_MEMORY;
    char* end = made.mapping + made.mapped - GUARD;
    size_t filled = number("fill") ? made.mapped - 2 * GUARD : made.rounded - size;
    memset(end - filled, 0xFF, filled);
    made.owner = &context;
    *address = address_of(end - made.rounded);
    context.used += made.rounded;
    driver().allocations[*address] = made;
    return SUCCESS;
  });
}

// Waits for all queued work, which may still use the memory, as the real one does.
DRIVER_API CUresult cuMemFree_v2(CUdeviceptr address) {
  return outside_capture("cuMemFree", [&](Context& context) -> CUresult {
    if (address == 0) return SUCCESS;
    if (CUresult code = finish(context)) return code;
    auto position = driver().allocations.find(address);
    if (position == driver().allocations.end())
      return failed(INVALID_VALUE, "cuMemFree: no live allocation begins there");
    bool untouched = slack_is_untouched(address, position->second);
    size_t size = position->second.size;
    remove(position);
    if (untouched) return SUCCESS;
    return failed(ILLEGAL_ADDRESS, "cuMemFree: bytes behind the end of an allocation of " +
                                       std::to_string(size) + " bytes were written");
  });
}

DRIVER_API CUresult cuMemHostAlloc(void** pointer, size_t size, unsigned flags) {
  return outside_capture("cuMemHostAlloc", [&](Context& context) -> CUresult {
    if (!pointer || size == 0 || flags > 7) return INVALID_VALUE;
    Allocation made = mapped_between_guards(size);
    if (!made.mapping) return OUT_OF_MEMORY;
    made.owner = &context;
    *pointer = made.mapping + GUARD;
    driver().pinned[made.mapping + GUARD] = made;
    return SUCCESS;
  });
}

DRIVER_API CUresult cuMemFreeHost(void* pointer) {
  return outside_capture("cuMemFreeHost", [&](Context& context) -> CUresult {
    if (!pointer) return SUCCESS;
    if (CUresult code = finish(context)) return code;
    auto position = driver().pinned.find(static_cast<const char*>(pointer));
    if (position == driver().pinned.end())
      return failed(INVALID_VALUE, "cuMemFreeHost: no pinned memory begins there");
    retire(position->second);
    driver().pinned.erase(position);
    return SUCCESS;
  });
}

DRIVER_API CUresult cuMemcpyHtoD_v2(CUdeviceptr target, const void* source, size_t size) {
  return in_context("cuMemcpyHtoD", [&](Context& context) -> CUresult {
    if (size == 0) return SUCCESS;
    if (!source) return INVALID_VALUE;
    if (CUresult code = check_range("cuMemcpyHtoD", target, size)) return code;
    return copy_now(context, copy_to_device(target, source, size));
  });
}

DRIVER_API CUresult cuMemcpyDtoH_v2(void* target, CUdeviceptr source, size_t size) {
  return in_context("cuMemcpyDtoH", [&](Context& context) -> CUresult {
    if (size == 0) return SUCCESS;
    if (!target) return INVALID_VALUE;
    if (CUresult code = check_range("cuMemcpyDtoH", source, size)) return code;
    return copy_now(context, copy_to_host(target, source, size));
  });
}

DRIVER_API CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr target, const void* source, size_t size,
                                         Stream* stream) {
  return in_context("cuMemcpyHtoDAsync", [&](Context&) -> CUresult {
    if (!stream_of(stream)) return INVALID_HANDLE;
    if (size == 0) return SUCCESS;
    if (!source) return INVALID_VALUE;
    if (CUresult code = check_range("cuMemcpyHtoDAsync", target, size)) return code;
    if (is_pinned(source, size)) return submit(stream, copy_to_device(target, source, size));
    if (Capture* capture = stream_of(stream)->capture.get())
      return invalidate(*capture, STREAM_CAPTURE_UNSUPPORTED);
    return submit(stream, copy_staged(target, source, size));
  });
}

DRIVER_API CUresult cuMemcpyDtoHAsync_v2(void* target, CUdeviceptr source, size_t size,
                                         Stream* stream) {
  return in_context("cuMemcpyDtoHAsync", [&](Context&) -> CUresult {
    if (!stream_of(stream)) return INVALID_HANDLE;
    if (size == 0) return SUCCESS;
    if (!target) return INVALID_VALUE;
    if (CUresult code = check_range("cuMemcpyDtoHAsync", source, size)) return code;
    Capture* capture = stream_of(stream)->capture.get();
    if (capture && !is_pinned(target, size))
      return invalidate(*capture, STREAM_CAPTURE_UNSUPPORTED);
    return submit(stream, copy_to_host(target, source, size));
  });
}

DRIVER_API CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr target, CUdeviceptr source, size_t size,
                                         Stream* stream) {
  return in_context("cuMemcpyDtoDAsync", [&](Context&) -> CUresult {
    if (!stream_of(stream)) return INVALID_HANDLE;
    if (size == 0) return SUCCESS;
    for (CUdeviceptr address : {target, source})
      if (CUresult code = check_range("cuMemcpyDtoDAsync", address, size)) return code;
    return submit(stream, [=]() -> CUresult {
      if (CUresult code = check_range_now(source, size)) return code;
      return copy_to_device(target, pointer_to(source), size)();
    });
  });
}

DRIVER_API CUresult cuMemsetD8Async(CUdeviceptr target, unsigned char value, size_t count,
                                    Stream* stream) {
  return in_context("cuMemsetD8Async", [&](Context&) -> CUresult {
    if (!stream_of(stream)) return INVALID_HANDLE;
    if (count == 0) return SUCCESS;
    if (CUresult code = check_range("cuMemsetD8Async", target, count)) return code;
    return submit(stream, fill(target, value, count));
  });
}

DRIVER_API CUresult cuMemsetD32Async(CUdeviceptr target, unsigned value, size_t count,
                                     Stream* stream) {
  return in_context("cuMemsetD32Async", [&](Context&) -> CUresult {
    if (!stream_of(stream)) return INVALID_HANDLE;
    if (target % sizeof(value)) return INVALID_VALUE;
    if (count == 0) return SUCCESS;
    if (CUresult code = check_range("cuMemsetD32Async", target, count * sizeof(value))) return code;
    return submit(stream, fill(target, value, count));
  });
}
