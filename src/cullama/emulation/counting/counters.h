// counters.h - what a counted kernel writes down as it runs, and how it is added up.
//
// Counts accesses by sector and bank, executed instructions, and a clock for each thread. It does
// not know PTX, and of the GPU only the latencies that it is given. Counted builds include it
// instead of machine.h; each holds its own counters.
//
// A lane runs alone until its next barrier, so what a warp does together is found afterwards. A
// Visit is one execution of a stretch of instructions (stretches.py) by the lanes of a warp that
// are in the same turns of all loops around it; each lane leaves its addresses there. When all
// living lanes of a warp wait at one place, none of its visits can get another lane: all are added
// up and forgotten.
#pragma once
#include <stdlib.h>

#include <initializer_list>
#include <string>

#include "../machine.h"

#include "../checking/shadow.h"
#include "table.h"

namespace emulated {

constexpr int KIND_COUNT = 17;  // costs.py, KINDS
constexpr uint32_t SECTOR = 32, BANKS = 32, WORD = 4;
enum Kind { LOAD, STORE, ATOMIC, COPY, COPY_STORE, MATRIX_LOAD };  // translator.py, ACCESS_KINDS

// The tables of a counted module, one row for each stretch and each access.
struct Stretch {
  int line, first_access, access_count, instructions, slots;
  unsigned short kinds[KIND_COUNT];  // instructions by kind
};
struct Access {
  int line;
  unsigned short bytes, kind, order;  // order: shadow.h
};

struct StretchCount {
  uint64_t executions, lanes;
};
struct AccessCount {
  uint64_t executions;                        // by a warp
  uint64_t lanes[3];                          // that took part: in global, shared, local memory
  uint64_t distinct, sectors, ideal_sectors;  // global: different bytes, and sectors for each warp
  uint64_t shared_executions;
  uint64_t passes, ideal_passes;  // shared: times that the banks are gone through
  uint64_t same_address;          // lanes beyond the first at one address
};
struct LaunchCount {
  uint64_t blocks;
  uint64_t cycles, longest_block, thread_cycles;  // of blocks' last threads; the longest; of all
  uint64_t load_cycles, byte_cycles;   // loads of global memory under way, and times their bytes
  uint64_t block_loads, block_stores;  // sectors that are new to their block
  uint64_t dram_loads, dram_stores;    // of these, not in L2
  uint64_t first_loads, first_stores;  // of these, the first block's, which meets what all share
};

// Cycles until a result can be used.
struct Latencies {
  uint32_t shared = 29, l1 = 36, l2 = 270, dram = 660;
};

struct Slot {
  uint32_t mask;
  uint64_t address[WARP];
};
struct Visit {
  uint64_t path;
  int stretch;
  uint32_t mask;
  Visit* next;  // where a lane went from here
  Slot* slots() { return reinterpret_cast<Slot*>(this + 1); }
};

// The visits of one warp that may get more lanes.
struct WarpLog {
  Visit root;  // before the first one
  std::vector<char*> chunks;
  size_t chunk, used;
  std::vector<Visit*> visits;
  Table<Visit*> table;
};
constexpr size_t CHUNK = 1 << 20;
constexpr size_t MAX_VISITS = 1 << 17;  // of a warp: in a loop without end memory would run out

struct Counters {
  const Stretch* stretches;
  const Access* accesses;
  std::vector<StretchCount> stretch_counts;
  std::vector<AccessCount> access_counts;
  std::vector<uint64_t> waits;  // cycles by PTX line
  LaunchCount launch;
  Latencies latencies;
  // Of the running block:
  Table<uint32_t> arrivals;  // when a sector is in L1
  Table<char> stored;        // sectors that it stored to
  WarpLog warps[MAX_THREADS / WARP];
  uint32_t clock[MAX_THREADS];  // cycles since it began
  uint64_t path[MAX_THREADS];   // the turns of the loops around the running function's call
  unsigned threads;
};
static Counters counters;

ALWAYS uint64_t mixed(uint64_t path, uint64_t place, uint64_t turn) {
  uint64_t z = path ^ (place << 40 ^ turn) * 0x9e3779b97f4a7c15ull;
  z = (z ^ z >> 32) * 0xbf58476d1ce4e5b9ull;
  return z ^ z >> 29;
}

// --- clocks -------------------------------------------------------------------------------------

ALWAYS uint32_t later(uint32_t a, uint32_t b) { return a > b ? a : b; }

// A thread's cycles within one function. An instruction begins when its operands are ready, so
// loads of a stretch overlap, as ptxas orders them; the next stretch begins when all have begun.
struct Clock {
  uint32_t now, end, when = 0, ready = 0, begun;
  int line = 0;  // at which the latest one waited
  uint32_t open_copies = 0, groups[64] = {}, group_count = 0;

  explicit Clock(const Thread& self) : now(counters.clock[self.number]), end(now), begun(now) {}

  ALWAYS void issue(int at, std::initializer_list<uint32_t> operands) {
    when = now;
    for (uint32_t operand : operands) when = later(when, operand);
    if (when > end) end = when, line = at;
    ready = when;
  }
  ALWAYS void advance(uint32_t slots, int first_line) {
    now += slots;
    if (end > now)
      now = end;
    else
      line = first_line;
    add_wait(line);
  }
  ALWAYS void add_wait(int at) {
    end = now;
    counters.waits[at] += now - begun;
    begun = now;
  }
  ALWAYS void leave(const Thread& self) { counters.clock[self.number] = now; }
  ALWAYS void return_from(const Thread& self, int at) {
    now = when = counters.clock[self.number];
    add_wait(at);
  }
  ALWAYS void copies() { open_copies = later(open_copies, ready); }
  ALWAYS void commit() { groups[group_count++ % 64] = open_copies, open_copies = 0; }
  ALWAYS void wait_for_groups(uint32_t left, int at) {
    const uint32_t first = group_count > 64 ? group_count - 64 : 0;
    for (uint32_t i = first; i + left < group_count; i++)
      if (groups[i % 64] > end) end = groups[i % 64], line = at;
  }
};

// --- writing down -------------------------------------------------------------------------------

ALWAYS Visit* root(const Thread& self) { return &counters.warps[self.warp].root; }

static Visit* new_visit(WarpLog& log, int stretch, uint64_t path) {
  const unsigned accesses = unsigned(counters.stretches[stretch].access_count);
  const size_t bytes = sizeof(Visit) + accesses * sizeof(Slot);
  if (log.chunks.empty() || log.used + bytes > CHUNK) {
    if (!log.chunks.empty()) log.chunk++;
    if (log.chunk == log.chunks.size()) log.chunks.push_back(static_cast<char*>(malloc(CHUNK)));
    log.used = 0;
  }
  Visit* made = reinterpret_cast<Visit*>(log.chunks[log.chunk] + log.used);
  log.used += bytes;
  *made = {path, stretch, 0, nullptr};
  for (unsigned i = 0; i < accesses; i++) made->slots()[i].mask = 0;
  log.visits.push_back(made);
  return made;
}

static void add_all(WarpLog& log);

__attribute__((noinline)) static Visit* find_visit(WarpLog& log, Visit* before, int stretch,
                                                   uint64_t path) {
  if (UNLIKELY(log.visits.size() >= MAX_VISITS)) {
    add_all(log);
    before = &log.root;
  }
  bool is_new;
  Visit*& found = log.table.at(mixed(path, unsigned(stretch), 0) | 1, is_new);
  if (is_new) found = new_visit(log, stretch, path);
  return before->next = found;
}

// Enters a stretch. Most lanes go where the lane before them went.
ALWAYS Visit* visit(const Thread& self, Visit* before, int stretch, uint64_t path) {
  Visit* found = before->next;
  if (UNLIKELY(!found || found->stretch != stretch || found->path != path))
    found = find_visit(counters.warps[self.warp], before, stretch, path);
  found->mask |= 1u << self.lane;
  return found;
}

// When a sector can be used by a thread that asks for it at `when`.
static uint32_t arrival(uint64_t sector, uint32_t when) {
  bool is_new;
  uint32_t& ready = counters.arrivals.at(sector, is_new);
  const Latencies& latencies = counters.latencies;
  if (is_new) {
    const bool is_hit = touch_l2(sector);
    counters.launch.block_loads++;
    counters.launch.dram_loads += !is_hit;
    ready = when + (is_hit ? latencies.l2 : latencies.dram);
  }
  return later(ready, when + latencies.l1);
}

static void add_stored_sector(uint64_t sector) {
  bool is_new;
  counters.stored.at(sector, is_new);
  if (!is_new) return;
  counters.launch.block_stores++;
  counters.launch.dram_stores += !touch_l2(sector);
}

__attribute__((noinline)) static void reach_global(uint64_t address, unsigned bytes, Kind kind,
                                                   Clock& clock) {
  for (uint64_t s = address / SECTOR; s <= (address + bytes - 1) / SECTOR; s++) {
    if (kind == STORE || kind == ATOMIC) add_stored_sector(s);
    if (kind != STORE) clock.ready = later(clock.ready, arrival(s, clock.when));
  }
  counters.launch.load_cycles += clock.ready - clock.when;
  counters.launch.byte_cycles += uint64_t(clock.ready - clock.when) * bytes;
}

static void check(const Thread& self, const Visit* here, int access, unsigned bytes, Kind kind,
                  unsigned char* pointer) {
  if (is_local(uint64_t(pointer))) return;
  const int number = counters.stretches[here->stretch].first_access + access;
  const bool is_write = kind == STORE || kind == ATOMIC || kind == COPY_STORE;
  const bool is_read = kind != STORE && kind != COPY_STORE;
  shadow.access(self, uint32_t(number), bytes, is_write, is_read, kind == COPY_STORE,
                Order(counters.accesses[number].order), pointer);
}

// Records one lane's access, and returns its pointer; clock.ready is when a load's result is.
__attribute__((noinline)) static unsigned char* record(const Thread& self, Visit* here, int access,
                                                       unsigned bytes, Kind kind,
                                                       unsigned char* pointer, Clock& clock) {
  Slot& slot = here->slots()[access];
  const uint64_t address = reinterpret_cast<uint64_t>(pointer);
  slot.mask |= 1u << self.lane;
  slot.address[self.lane] = address;
  if (is_shared(address))
    clock.ready = clock.when + counters.latencies.shared;
  else if (is_local(address))
    clock.ready = clock.when + counters.latencies.l1;
  else
    reach_global(address, bytes, kind, clock);
  if (UNLIKELY(shadow.is_on)) check(self, here, access, bytes, kind, pointer);
  return pointer;
}

// --- adding up ----------------------------------------------------------------------------------

// The different ones of a warp's few values.
struct Distinct {
  uint64_t values[2 * WARP];
  unsigned count = 0;
  bool add(uint64_t value) {
    for (unsigned i = count; i-- > 0;)
      if (values[i] == value) return false;
    values[count++] = value;
    return true;
  }
};

// Times that the 32 banks are gone through for one access. 8 bytes a lane are read by half warps,
// 16 by quarters (CUDA programming guide, "Shared memory"); `ideal` is without conflicts.
static void add_shared(AccessCount& to, const Slot& slot, uint32_t mask, unsigned bytes) {
  const unsigned lanes = bytes <= 4 ? 32 : bytes == 8 ? 16 : 8;
  to.shared_executions++;
  for (unsigned first = 0; first < WARP; first += lanes) {
    uint32_t part = mask & (lanes == 32 ? ~0u : ((1u << lanes) - 1) << first);
    if (!part) continue;
    Distinct words;
    unsigned in_bank[BANKS] = {}, most = 1;
    for (; part; part &= part - 1) {
      const uint64_t address = slot.address[__builtin_ctz(part)];
      for (unsigned offset = 0; offset < bytes; offset += WORD)
        if (words.add((address + offset) / WORD))
          most = std::max(most, ++in_bank[(address + offset) / WORD % BANKS]);
    }
    to.passes += most;
    to.ideal_passes += std::max(1u, (words.count + BANKS - 1) / BANKS);
  }
}

static void add_global(AccessCount& to, const Slot& slot, uint32_t mask, unsigned bytes) {
  Distinct sectors, starts;
  for (; mask; mask &= mask - 1) {
    const uint64_t address = slot.address[__builtin_ctz(mask)];
    starts.add(address);
    for (uint64_t s = address / SECTOR; s <= (address + bytes - 1) / SECTOR; s++) sectors.add(s);
  }
  to.distinct += starts.count * bytes;
  to.sectors += sectors.count;
  to.ideal_sectors += (starts.count * bytes + SECTOR - 1) / SECTOR;
}

static void add_access(AccessCount& to, const Slot& slot, const Access& access) {
  enum { GLOBAL, SHARED, LOCAL };
  uint32_t masks[3] = {};
  Distinct places;
  for (uint32_t left = slot.mask; left; left &= left - 1) {
    const int lane = __builtin_ctz(left);
    const uint64_t address = slot.address[lane];
    masks[is_shared(address) ? SHARED : is_local(address) ? LOCAL : GLOBAL] |= 1u << lane;
    places.add(address);
  }
  to.executions++;
  to.same_address += ones(slot.mask) - places.count;
  for (int space = 0; space < 3; space++) to.lanes[space] += ones(masks[space]);
  if (masks[SHARED]) add_shared(to, slot, masks[SHARED], access.bytes);
  if (masks[GLOBAL]) add_global(to, slot, masks[GLOBAL], access.bytes);
}

static void add_visit(Visit& visit) {
  StretchCount& count = counters.stretch_counts[visit.stretch];
  count.executions++;
  count.lanes += ones(visit.mask);
  const Stretch& stretch = counters.stretches[visit.stretch];
  for (int i = stretch.first_access; i < stretch.first_access + stretch.access_count; i++) {
    const Slot& slot = visit.slots()[i - stretch.first_access];
    if (slot.mask) add_access(counters.access_counts[i], slot, counters.accesses[i]);
  }
}

static void add_all(WarpLog& log) {
  for (Visit* visit : log.visits) add_visit(*visit);
  log.table.clear();
  log.visits.clear();
  log.chunk = log.used = 0;
  log.root.next = nullptr;
}

// --- what the scheduler tells -------------------------------------------------------------------

static void begin_counted_block(unsigned threads) {
  counters.threads = threads;
  counters.arrivals.clear();
  counters.stored.clear();
  if (shadow.is_on) shadow.begin_block();
  memset(counters.clock, 0, sizeof counters.clock);
  memset(counters.path, 0, sizeof counters.path);
}

static void end_counted_block() {
  if (shadow.is_on) shadow.end_block();
  for (WarpLog& log : counters.warps) add_all(log);
  LaunchCount& launch = counters.launch;
  uint32_t last = 0;
  for (unsigned i = 0; i < counters.threads; i++) {
    last = later(last, counters.clock[i]);
    launch.thread_cycles += counters.clock[i];
  }
  if (!launch.blocks++)
    launch.first_loads = launch.dram_loads, launch.first_stores = launch.dram_stores;
  launch.cycles += last;
  launch.longest_block = std::max<uint64_t>(launch.longest_block, last);
}

// Lanes that waited for each other go on at the time of the last one.
static void go_on(uint32_t clock, unsigned warp, uint32_t lanes, uint32_t living) {
  for (uint32_t left = lanes; left; left &= left - 1)
    counters.clock[warp * WARP + unsigned(__builtin_ctz(left))] = clock;
  if (lanes && (lanes & living) == living) add_all(counters.warps[warp]);
}

static uint32_t latest_of(unsigned warp, uint32_t lanes) {
  uint32_t latest = 0;
  for (; lanes; lanes &= lanes - 1)
    latest = later(latest, counters.clock[warp * WARP + unsigned(__builtin_ctz(lanes))]);
  return latest;
}

static void meet_in_warp(unsigned warp, uint32_t lanes, uint32_t living, bool orders_memory) {
  if (shadow.is_on && orders_memory) shadow.meet(warp, lanes);
  go_on(latest_of(warp, lanes), warp, lanes, living);
}

static void arrive_in_block(unsigned warp) {
  if (shadow.is_on) shadow.arrive(warp);
}

static void meet_in_block(unsigned warps, const uint32_t* lanes, const uint32_t* living) {
  if (shadow.is_on) shadow.meet_in_block(warps, lanes, living);
  uint32_t latest = 0;
  for (unsigned i = 0; i < warps; i++) latest = later(latest, latest_of(i, lanes[i]));
  for (unsigned i = 0; i < warps; i++) go_on(latest, i, lanes[i], living[i]);
}

static const Watcher counting = {begin_counted_block, end_counted_block, meet_in_warp,
                                 arrive_in_block, meet_in_block};

// --- the result ---------------------------------------------------------------------------------

// JSON, as counts.py reads it.
class Report {
 public:
  void row(const char* name, std::initializer_list<uint64_t> numbers) {
    text_ += text_.empty() ? "{\"" : ", \"";
    text_ += name;
    text_ += "\": ";
    append(numbers);
  }
  void begin(const char* name) { text_ += std::string(", \"") + name + "\": [", is_first_ = true; }
  void append_row(std::initializer_list<uint64_t> numbers) {
    if (!is_first_) text_ += ", ";
    is_first_ = false;
    append(numbers);
  }
  void end() { text_ += "]"; }
  std::string whole() const { return text_ + "}"; }

 private:
  void append(std::initializer_list<uint64_t> numbers) {
    const char* separator = "[";
    for (uint64_t number : numbers) text_ += separator + std::to_string(number), separator = ", ";
    text_ += "]";
  }
  std::string text_;
  bool is_first_ = true;
};

static const char* report() {
  static std::string text;
  const LaunchCount& launch = counters.launch;
  Report report;
  report.row("blocks", {launch.blocks, launch.cycles, launch.longest_block, launch.thread_cycles,
                        launch.load_cycles, launch.byte_cycles});
  report.row("sectors", {launch.block_loads, launch.block_stores, launch.dram_loads,
                         launch.dram_stores, launch.first_loads, launch.first_stores});
  report.begin("stretches");
  for (size_t i = 0; i < counters.stretch_counts.size(); i++)
    if (const StretchCount& count = counters.stretch_counts[i]; count.executions)
      report.append_row({i, count.executions, count.lanes});
  report.end();
  report.begin("accesses");
  for (size_t i = 0; i < counters.access_counts.size(); i++)
    if (const AccessCount& c = counters.access_counts[i]; c.executions)
      report.append_row({i, c.executions, c.lanes[0], c.lanes[1], c.lanes[2], c.distinct, c.sectors,
                         c.ideal_sectors, c.shared_executions, c.passes, c.ideal_passes,
                         c.same_address});
  report.end();
  report.begin("waits");
  for (size_t line = 0; line < counters.waits.size(); line++)
    if (counters.waits[line]) report.append_row({line, counters.waits[line]});
  report.end();
  return (text = report.whole()).c_str();
}

static const char* faults() {
  static std::string text;
  return (text = shadow.report()).c_str();
}

static void begin_counting(const Stretch* stretches, size_t stretch_count, const Access* accesses,
                           size_t access_count, size_t lines) {
  counters.stretches = stretches;
  counters.accesses = accesses;
  counters.stretch_counts.assign(stretch_count, {});
  counters.access_counts.assign(access_count, {});
  counters.waits.assign(lines, 0);
  counters.launch = {};
  for (WarpLog& log : counters.warps) {  // of a launch that failed
    log.visits.clear();
    log.table.clear();
    log.chunk = log.used = 0;
    log.root.next = nullptr;
  }
  if (shadow.is_on) shadow.begin();
  set_watcher(&counting);
}

}  // namespace emulated

// The C interface of a counted module, besides that of every module.
#define COUNTED_INTERFACE(stretches, stretch_count, accesses, access_count, lines)               \
  extern "C" {                                                                                   \
  EMULATED_EXPORT void counted_begin(const uint32_t latencies[4]) {                              \
    memcpy(&emulated::counters.latencies, latencies, sizeof emulated::counters.latencies);       \
    emulated::begin_counting(stretches, stretch_count, accesses, access_count, lines);           \
  }                                                                                              \
  EMULATED_EXPORT const char* counted_end(void) {                                                \
    emulated::set_watcher(nullptr);                                                              \
    return emulated::report();                                                                   \
  }                                                                                              \
  EMULATED_EXPORT void counted_check(int is_on) { emulated::shadow.is_on = is_on; }              \
  EMULATED_EXPORT const char* counted_faults(void) { return emulated::faults(); }                \
  EMULATED_EXPORT unsigned counted_writer(uint64_t address) {                                    \
    return emulated::shadow.writer(address).access;                                              \
  }                                                                                              \
  EMULATED_EXPORT void counted_sample(unsigned long long count) { emulated::set_sample(count); } \
  EMULATED_EXPORT void counted_l2(unsigned long long bytes) { emulated::set_l2(bytes); }         \
  EMULATED_EXPORT void counted_touch(uint64_t address, uint64_t bytes) {                         \
    for (uint64_t at = address; at < address + bytes; at += emulated::SECTOR)                    \
      emulated::touch_l2(at / emulated::SECTOR);                                                 \
  }                                                                                              \
  }
