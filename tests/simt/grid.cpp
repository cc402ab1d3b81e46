// Runs grids: a block (or a cluster) after the other, its threads on fibers of one thread of the machine.
//
// A thread runs until it waits or gives way; then a random one of those that are ready runs, on the spot when
// it has not started yet (a new fiber is needed only while the old ones hold waiting threads).
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <exception>
#include <mutex>
#include <numeric>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "fiber.h"
#include "shared_memory.h"
#include "simt/device_api.h"
#include "symbol_name.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace simt {
namespace {

constexpr unsigned kWarp = warpSize;

struct Block;

enum class State { ready, at_block_barrier, at_cluster_barrier, in_collective, returned };

struct Thread {
    Block* block;
    unsigned rank;  // in the block
    uint3 index;
    State state;
    Fiber* fiber;  // that it is suspended on; null before it starts
    // While it waits:
    const char* where;
    Place place;
    unsigned mask, source;
    uint64_t bits;  // in and out
};

struct Barrier {
    unsigned arrived = 0;
    int positive = 0;
    Votes votes{};
    Place place;
};

struct Block {
    unsigned rank;  // in the cluster
    uint3 index;
    std::vector<Thread> threads;
    std::vector<unsigned> warps;          // in the order in which barriers wake them
    std::vector<Thread*> ready;           // last woken last
    std::vector<unsigned> in_collective;  // for each warp
    Barrier barrier;
    unsigned returned;
    std::optional<DynamicSharedMemory> dynamic_shared;
    std::vector<std::byte> static_shared;  // of a cluster's blocks: theirs while another runs
};

bool operator==(const Place& a, const Place& b) {
    return a.line() == b.line() && a.column() == b.column() &&
           (a.file_name() == b.file_name() || std::strcmp(a.file_name(), b.file_name()) == 0);
}

uint64_t volume(dim3 shape) { return uint64_t{shape.x} * shape.y * shape.z; }

// The coordinates of element k; x runs fastest.
uint3 position(uint64_t k, dim3 shape) {
    return {static_cast<unsigned>(k % shape.x), static_cast<unsigned>(k / shape.x % shape.y),
            static_cast<unsigned>(k / shape.x / shape.y)};
}

std::ostream& operator<<(std::ostream& out, uint3 v) {
    return out << '(' << v.x << ", " << v.y << ", " << v.z << ')';
}

class Machine {
  public:
    void run(const Kernel& kernel, dim3 grid, dim3 block, dim3 cluster, size_t dynamic_shared_bytes,
             uint64_t seed);
    void yield();
    Votes block_barrier(int vote, Place place);
    void cluster_barrier(Place place);
    uint64_t collective(Collective kind, const char* name, unsigned mask, uint64_t bits, unsigned source,
                        Place place);
    void* map_shared(const void* address, unsigned rank);
    Block& block() { return *block_; }
    dim3 cluster_shape() const { return cluster_shape_; }

  private:
    void shape(dim3 block, dim3 cluster, size_t dynamic_shared_bytes);
    void start_cluster(uint64_t number);
    void run_cluster();
    static void run_threads();
    void returned();

    Thread* pick();
    void enter(Thread& thread);
    void enter_block(Block& block);
    void suspend();
    void wake(Thread& thread);
    void wake_all(Block& block);
    void switch_to(Fiber& fiber);
    Fiber& free_fiber();

    void wait(State state, const char* where, Place place, unsigned mask = 0);
    void complete(Collective kind, std::span<Thread> warp, unsigned mask);
    [[noreturn]] void fail(const char* what);
    std::string report(const char* what) const;

    // The launch.
    const Kernel* kernel_;
    dim3 cluster_shape_;
    std::span<std::byte> static_shared_;
    Random random_{0};   // decides the order of threads and blocks
    Random garbage_{0};  // apart, so that the order depends on the seed and the launch only
    size_t reach_;
    std::vector<Block> blocks_;  // of the cluster that runs
    Barrier cluster_barrier_;
    // What runs.
    Block* block_;
    Thread* thread_;
    Fiber* fiber_;
    // How it ended.
    std::string error_;
    std::exception_ptr thrown_;

    Fiber main_;
    std::deque<Stacks> stacks_;
    std::deque<Fiber> fibers_;
    std::vector<Fiber*> free_;
};

Machine machine;

// -------------------------------------------------------------------------------------------------- launches

void Machine::run(const Kernel& kernel, dim3 grid, dim3 block, dim3 cluster, size_t dynamic_shared_bytes,
                  uint64_t seed) {
    kernel_ = &kernel;
    gridDim = grid;
    blockDim = block;
    random_ = Random(seed);
    garbage_ = Random(~seed);
    static_shared_ = static_shared_memory(kernel.address);
    shape(block, cluster, dynamic_shared_bytes);

    // Clusters in the order start, start + stride, ... modulo their number.
    const uint64_t clusters = volume(grid) / volume(cluster);
    uint64_t stride = random_.bits() % clusters;
    while (std::gcd(stride, clusters) != 1) stride = (stride + 1) % clusters;
    uint64_t number = random_.bits() % clusters;
    for (uint64_t k = 0; k < clusters; ++k) {
        start_cluster(number);
        run_cluster();
        number = (number + stride) % clusters;
    }
    for (Block& done : blocks_) done.dynamic_shared.reset();
}

void Machine::shape(dim3 block, dim3 cluster, size_t dynamic_shared_bytes) {
    cluster_shape_ = cluster;
    blocks_.resize(volume(cluster));
    for (Block& b : blocks_) {
        b.rank = static_cast<unsigned>(&b - blocks_.data());
        b.threads.resize(volume(block));
        for (Thread& t : b.threads) {
            t.block = &b;
            t.rank = static_cast<unsigned>(&t - b.threads.data());
            t.index = position(t.rank, block);
        }
        b.warps.resize((b.threads.size() + kWarp - 1) / kWarp);
        std::iota(b.warps.begin(), b.warps.end(), 0);
        b.in_collective.assign(b.warps.size(), 0);
        b.dynamic_shared.emplace(dynamic_shared_bytes);
        b.static_shared.resize(blocks_.size() > 1 ? static_shared_.size() : 0);
    }
}

void Machine::start_cluster(uint64_t number) {
    const dim3 clusters(gridDim.x / cluster_shape_.x, gridDim.y / cluster_shape_.y,
                        gridDim.z / cluster_shape_.z);
    const uint3 cluster = position(number, clusters);
    cluster_barrier_ = {};
    for (Block& b : blocks_) {
        const uint3 offset = position(b.rank, cluster_shape_);
        b.index = {cluster.x * cluster_shape_.x + offset.x, cluster.y * cluster_shape_.y + offset.y,
                   cluster.z * cluster_shape_.z + offset.z};
        b.barrier = {};
        b.returned = 0;
        b.ready.clear();
        for (Thread& t : b.threads) t.fiber = nullptr;
        for (size_t k = b.warps.size(); k > 1; --k) std::swap(b.warps[k - 1], b.warps[random_.below(k)]);
        wake_all(b);
        fill_with_garbage(b.dynamic_shared->bytes(), garbage_);
        fill_with_garbage(blocks_.size() > 1 ? std::span(b.static_shared) : static_shared_, garbage_);
    }
    block_ = nullptr;
    enter_block(blocks_[random_.below(blocks_.size())]);
}

void Machine::run_cluster() {
    enter(*pick());
    fiber_ = &main_;
    switch_to(free_fiber());
    if (error_.empty() && thrown_ == nullptr) return;
    // Threads that wait are abandoned, their stacks used again.
    free_.clear();
    fibers_.clear();
    for (Block& b : blocks_) b.dynamic_shared.reset();
    if (thrown_ != nullptr) std::rethrow_exception(std::exchange(thrown_, nullptr));
    throw std::runtime_error(std::exchange(error_, {}));
}

// The life of a fiber: thread after thread.
void Machine::run_threads() {
    for (;;) {
        try {
            machine.kernel_->run(machine.kernel_->arguments);
        } catch (...) {
            machine.thrown_ = std::current_exception();
        }
        machine.returned();
    }
}

// Returns when this fiber is to run `thread_`.
void Machine::returned() {
    if (thrown_ != nullptr) switch_to(main_);
    thread_->state = State::returned;
    // The shared memory of a block that is gone must not be used by the others.
    if (++block_->returned == block_->threads.size() && blocks_.size() > 1) {
        fill_with_garbage(block_->dynamic_shared->bytes(), garbage_);
        fill_with_garbage(static_shared_, garbage_);
    }
    Thread* const next = pick();
    if (next != nullptr) {
        enter(*next);
        if (next->fiber == nullptr) return;
    } else {
        for (const Block& b : blocks_) {
            if (b.returned < b.threads.size()) fail("threads wait for threads that never come");
        }
    }
    free_.push_back(fiber_);
    switch_to(next != nullptr ? *next->fiber : main_);
}

// ------------------------------------------------------------------------------------------------ scheduling

// A random one of the threads that are ready: mostly one of the `reach_` that were woken last, and rarely one
// of another block than that which runs. Null if there is none.
Thread* Machine::pick() {
    Block* from = block_;
    if (blocks_.size() > 1 && (from->ready.empty() || random_.below(16) == 0)) {
        const unsigned first = random_.below(blocks_.size());
        for (size_t k = 0; k < blocks_.size(); ++k) {
            from = &blocks_[(first + k) % blocks_.size()];
            if (!from->ready.empty()) break;
        }
    }
    std::vector<Thread*>& ready = from->ready;
    if (ready.empty()) return nullptr;
    const size_t reach = random_.below(16) == 0 ? ready.size() : std::min(ready.size(), reach_);
    const auto place = ready.end() - 1 - random_.below(reach);
    Thread* const chosen = *place;
    if (reach_ < ready.size()) {
        ready.erase(place);
    } else {  // the order does not matter
        *place = ready.back();
        ready.pop_back();
    }
    return chosen;
}

void Machine::enter(Thread& thread) {
    thread_ = &thread;
    threadIdx = thread.index;
    if (thread.block != block_) enter_block(*thread.block);
}

// The blocks of a cluster share the memory of the static variables in turns.
void Machine::enter_block(Block& block) {
    if (blocks_.size() > 1) {
        if (block_ != nullptr) {
            std::copy(static_shared_.begin(), static_shared_.end(), block_->static_shared.begin());
        }
        std::copy(block.static_shared.begin(), block.static_shared.end(), static_shared_.begin());
    }
    block_ = &block;
    blockIdx = block.index;
}

// Another thread runs, until this one, which is waiting or in the list of those that are ready, is picked.
void Machine::suspend() {
    Thread* const self = thread_;
    Thread* const next = pick();
    if (next == nullptr) fail("threads wait for threads that never come");
    if (next == self) return;
    self->fiber = fiber_;
    enter(*next);
    switch_to(next->fiber != nullptr ? *next->fiber : free_fiber());
}

void Machine::wake(Thread& thread) {
    thread.state = State::ready;
    thread.block->ready.push_back(&thread);
}

void Machine::wake_all(Block& block) {
    // From here to the next barrier: a warp far ahead of the others, or all side by side.
    constexpr size_t kReaches[] = {1, 4, 16, SIZE_MAX};
    reach_ = kReaches[random_.below(std::size(kReaches))];
    for (const unsigned warp : block.warps) {
        const size_t first = warp * kWarp, end = std::min(first + kWarp, block.threads.size());
        for (size_t k = first; k < end; ++k) wake(block.threads[k]);
    }
}

void Machine::switch_to(Fiber& fiber) { std::exchange(fiber_, &fiber)->switch_to(fiber); }

Fiber& Machine::free_fiber() {
    constexpr size_t kChunk = 256;
    if (free_.empty()) {
        const size_t k = fibers_.size();
        if (k == stacks_.size() * kChunk) stacks_.emplace_back(kChunk);
        free_.push_back(
            &fibers_.emplace_back(stacks_[k / kChunk].bottom(k % kChunk), Stacks::size(), &run_threads));
    }
    Fiber& fiber = *free_.back();
    free_.pop_back();
    return fiber;
}

void Machine::yield() {
    wake(*thread_);
    suspend();
}

// ---------------------------------------------------------------------------------- barriers and collectives

void Machine::wait(State state, const char* where, Place place, unsigned mask) {
    thread_->state = state;
    thread_->where = where;
    thread_->place = place;
    thread_->mask = mask;
}

Votes Machine::block_barrier(int vote, Place place) {
    Block& block = *block_;
    Barrier& barrier = block.barrier;
    wait(State::at_block_barrier, "__syncthreads", place);
    if (barrier.arrived > 0 && !(barrier.place == place))
        fail("threads of a block wait at different barriers");
    barrier.place = place;
    barrier.positive += vote != 0;
    if (++barrier.arrived == block.threads.size()) {
        barrier.votes = {barrier.positive, static_cast<int>(barrier.arrived)};
        barrier.arrived = 0;
        barrier.positive = 0;
        wake_all(block);
    }
    suspend();
    return barrier.votes;
}

void Machine::cluster_barrier(Place place) {
    Barrier& barrier = cluster_barrier_;
    wait(State::at_cluster_barrier, "cluster.sync", place);
    if (barrier.arrived > 0 && !(barrier.place == place))
        fail("threads of a cluster wait at different barriers");
    barrier.place = place;
    if (++barrier.arrived == blocks_.size() * block_->threads.size()) {
        barrier.arrived = 0;
        for (Block& b : blocks_) wake_all(b);
    }
    suspend();
}

uint64_t Machine::collective(Collective kind, const char* name, unsigned mask, uint64_t bits, unsigned source,
                             Place place) {
    Thread& self = *thread_;
    Block& block = *block_;
    wait(State::in_collective, name, place, mask);
    self.bits = bits;
    self.source = source;
    if ((mask >> (self.rank % kWarp) & 1) == 0) fail("a lane is not in the mask that it gives");

    const size_t first = self.rank / kWarp * kWarp;
    const std::span<Thread> warp(&block.threads[first],
                                 std::min<size_t>(kWarp, block.threads.size() - first));
    // Lanes beyond the end of the block need not come.
    if (warp.size() < kWarp) mask &= (1u << warp.size()) - 1;
    unsigned& waiting = block.in_collective[first / kWarp];
    if (++waiting >= static_cast<unsigned>(std::popcount(mask))) {
        const auto came = [&](const Thread& t) {
            return t.state == State::in_collective && t.mask == self.mask && t.place == place;
        };
        unsigned arrived = 0;
        for (const Thread& t : warp) arrived |= unsigned{came(t)} << t.rank % kWarp;
        if ((arrived & mask) == mask) {
            complete(kind, warp, mask);
            waiting -= std::popcount(mask);
        }
    }
    suspend();
    return self.bits;
}

// Gives each lane of the mask its result and wakes it.
void Machine::complete(Collective kind, std::span<Thread> warp, unsigned mask) {
    uint64_t given[kWarp];
    uint32_t sum = 0, least_unsigned = UINT32_MAX, most_unsigned = 0, ballot = 0;
    int32_t least = INT32_MAX, most = INT32_MIN;
    for (unsigned lane = 0; lane < warp.size(); ++lane) {
        if ((mask >> lane & 1) == 0) continue;
        given[lane] = warp[lane].bits;
        const uint32_t number = static_cast<uint32_t>(given[lane]);
        const int32_t with_sign = static_cast<int32_t>(number);
        sum += number;
        least_unsigned = std::min(least_unsigned, number);
        most_unsigned = std::max(most_unsigned, number);
        least = std::min(least, with_sign);
        most = std::max(most, with_sign);
        ballot |= unsigned{given[lane] != 0} << lane;
    }
    const auto result = [&](const Thread& t) -> uint64_t {
        switch (kind) {
            case Collective::barrier:
                return 0;
            case Collective::shuffle:
                return mask >> t.source & 1 ? given[t.source] : garbage_.bits();
            case Collective::ballot:
                return ballot;
            case Collective::match: {
                unsigned equal = 0;
                for (unsigned lane = 0; lane < warp.size(); ++lane) {
                    if (mask >> lane & 1) equal |= unsigned{given[lane] == given[t.rank % kWarp]} << lane;
                }
                return equal;
            }
            case Collective::sum:
                return sum;
            case Collective::least:
                return static_cast<uint32_t>(least);
            case Collective::most:
                return static_cast<uint32_t>(most);
            case Collective::least_unsigned:
                return least_unsigned;
            case Collective::most_unsigned:
                return most_unsigned;
        }
        return 0;
    };
    for (unsigned lane = 0; lane < warp.size(); ++lane) {
        if ((mask >> lane & 1) == 0) continue;
        warp[lane].bits = result(warp[lane]);
        wake(warp[lane]);
    }
}

void* Machine::map_shared(const void* address, unsigned rank) {
    if (rank >= blocks_.size()) fail("map_shared_rank: there is no block of this rank in the cluster");
    const std::byte* const byte = static_cast<const std::byte*>(address);
    Block& other = blocks_[rank];
    const auto inside = [&](std::span<std::byte> memory) {
        return byte >= memory.data() && byte < memory.data() + memory.size();
    };
    const std::span<std::byte> dynamic = block_->dynamic_shared->bytes();
    if (inside(dynamic)) return other.dynamic_shared->bytes().data() + (byte - dynamic.data());
    if (!inside(static_shared_)) fail("map_shared_rank: not an address in the block's own shared memory");
    std::byte* const others = &other == block_ ? static_shared_.data() : other.static_shared.data();
    return others + (byte - static_shared_.data());
}

// -------------------------------------------------------------------------------------------------- failures

void Machine::fail(const char* what) {
    error_ = report(what);
    switch_to(main_);
    std::abort();  // nobody resumes this fiber
}

// Where the threads of the cluster are: those that wait at the same place or have returned are told together.
std::string Machine::report(const char* what) const {
    struct Group {
        const Thread* first;
        size_t count;
    };
    std::vector<Group> groups;
    for (const Block& b : blocks_) {
        for (const Thread& t : b.threads) {
            const auto alike = [&](const Group& group) {
                const Thread& other = *group.first;
                return other.block == t.block && other.state == t.state &&
                       (t.state == State::ready || t.state == State::returned ||
                        (other.where == t.where && other.mask == t.mask && other.place == t.place));
            };
            const auto group = std::find_if(groups.begin(), groups.end(), alike);
            if (group == groups.end()) {
                groups.push_back({&t, 1});
            } else {
                ++group->count;
            }
        }
    }
    std::ostringstream out;
    out << "kernel " << symbol_name(kernel_->address) << ", block " << block_->index << ", thread "
        << thread_->index << ": " << what;
    for (const auto& [first, count] : groups) {
        out << "\n  " << count << (count == 1 ? " thread" : " threads") << " of block " << first->block->index
            << ", first " << first->index << ", ";
        if (first->state == State::ready) {
            out << "can run";
        } else if (first->state == State::returned) {
            out << "returned";
        } else {
            out << "in " << first->where;
            if (first->state == State::in_collective) {
                out << ", warp " << first->rank / kWarp << ", mask 0x" << std::hex << first->mask << std::dec;
            }
            out << ", at " << first->place.file_name() << ':' << first->place.line() << " in "
                << first->place.function_name();
        }
    }
    return out.str();
}

std::mutex one_launch_at_a_time;
std::optional<uint64_t> chosen_seed;

uint64_t seed() {
    if (chosen_seed) return *chosen_seed;
    const char* const text = std::getenv("INTEGRALROB_SIMT_SEED");
    return text == nullptr ? 0 : std::strtoull(text, nullptr, 10);
}

}  // namespace

void set_seed(uint64_t seed) {
    const std::lock_guard lock(one_launch_at_a_time);
    chosen_seed = seed;
}

void run_grid(const Kernel& kernel, dim3 grid, dim3 block, dim3 cluster, size_t dynamic_shared_bytes) {
    const std::lock_guard lock(one_launch_at_a_time);
    machine.run(kernel, grid, block, cluster, dynamic_shared_bytes, seed());
}

void* dynamic_shared_memory() { return machine.block().dynamic_shared->bytes().data(); }
void yield() { machine.yield(); }
Votes block_barrier(int vote, Place place) { return machine.block_barrier(vote, place); }
void cluster_barrier(Place place) { machine.cluster_barrier(place); }
uint64_t collective(Collective kind, const char* name, unsigned mask, uint64_t bits, unsigned source,
                    Place place) {
    return machine.collective(kind, name, mask, bits, source, place);
}
void* map_shared(const void* address, unsigned rank) { return machine.map_shared(address, rank); }
unsigned cluster_rank() { return machine.block().rank; }
dim3 cluster_shape() { return machine.cluster_shape(); }

}  // namespace simt
