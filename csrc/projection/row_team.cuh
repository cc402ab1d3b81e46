// The threads that work on a row together: a warp, a block, or a cluster of blocks. They reduce values, and
// one of them makes a decision of the result, which all get.
//
// A value is a trivially copyable struct of whole 8-byte words, `Value{}` the neutral one, with a
// merge(other) that is exact: associative and commutative.
#pragma once

#include <cooperative_groups.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>

#include "common/launch.cuh"

namespace integralrob::cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

using Word = unsigned long long;
template <typename Value>
constexpr int kWords = sizeof(Value) / sizeof(Word);

template <typename Value>
__device__ __forceinline__ void to_words(const Value& value, Word* words) {
    static_assert(sizeof(Value) % sizeof(Word) == 0);
    std::memcpy(words, &value, sizeof(Value));
}
template <typename Value>
__device__ __forceinline__ Value from_words(const Word* words) {
    Value value;
    std::memcpy(static_cast<void*>(&value), words, sizeof(Value));
    return value;
}

// Over the lanes of a warp; all get it.
template <typename Value>
__device__ __forceinline__ Value reduce_warp(Value value) {
#pragma unroll
    for (int distance = kWarp / 2; distance > 0; distance /= 2) {
        Word words[kWords<Value>];
        to_words(value, words);
#pragma unroll
        for (Word& word : words) word = __shfl_xor_sync(kAllLanes, word, distance);
        value.merge(from_words<Value>(words));
    }
    return value;
}

// In shared memory: what a decision is made of, apart from the reduced value, and the decision. One thread
// keeps the state of a search there, not every one in its registers.
class Desk {
  public:
    static constexpr size_t kBytes = 256;

    __device__ explicit Desk(unsigned char* memory) : memory_(memory) {}

    template <typename State>
    __device__ State& state() const {
        static_assert(sizeof(State) <= kBytes - kOfDecision);
        return *reinterpret_cast<State*>(memory_ + kOfDecision);
    }
    template <typename Decision>
    __device__ Decision& decision() const {
        static_assert(sizeof(Decision) <= kOfDecision);
        return *reinterpret_cast<Decision*>(memory_);
    }

  private:
    static constexpr size_t kOfDecision = 32;
    unsigned char* memory_;
};

// A team has
//   kThreads of a block, kRowsOfBlock, kSharedBytes at the start of its dynamic shared memory
//   size(), rank()              its threads
//   here(), rank_here()         those of them that share memory
//   team_here()                 which of the teams that share memory it is
//   first_row(), row_step()     the rows that it works on
//   decide<State>(value, make)  make(state, the reduced value), made by one thread, for all
//   lead<State>(make)           make(state), made by the lanes of one warp, the first lane's for all; it
//                               alone may change the state
//   publish(to, value)          writes shared memory, in all blocks; before the next decide() or add_up()
//   sync()                      a barrier for those that share memory
//   add_up<kCounts>(counts)     counts in shared memory, over all blocks; a barrier before and after it
//   finish()                    before its end

// A row for each warp of a block.
template <int kThreads_>
class WarpTeam {
  public:
    static constexpr int kThreads = kThreads_, kRowsOfBlock = kThreads / kWarp;
    static constexpr size_t kSharedBytes = kRowsOfBlock * Desk::kBytes;

    __device__ WarpTeam() : desk_(dynamic_shared<unsigned char>() + team_here() * Desk::kBytes) {}

    __device__ int size() const { return kWarp; }
    __device__ int rank() const { return static_cast<int>(threadIdx.x) % kWarp; }
    __device__ int here() const { return kWarp; }
    __device__ int rank_here() const { return rank(); }
    __device__ int team_here() const { return static_cast<int>(threadIdx.x) / kWarp; }
    __device__ int64_t first_row() const { return int64_t{blockIdx.x} * kRowsOfBlock + team_here(); }
    __device__ int64_t row_step() const { return int64_t{gridDim.x} * kRowsOfBlock; }
    __device__ void sync() const { __syncwarp(); }

    template <typename State, typename Value, typename Make>
    __device__ auto decide(const Value& value, const Make& make) {
        using Decision = decltype(make(std::declval<State&>(), value));
        const Value total = reduce_warp(value);
        sync();  // the last decision is read
        if (rank() == 0) desk_.template decision<Decision>() = make(desk_.template state<State>(), total);
        sync();
        return Decision(desk_.template decision<Decision>());
    }
    template <typename State, typename Make>
    __device__ auto lead(const Make& make) {
        using Decision = decltype(make(std::declval<State&>()));
        sync();  // the last decision is read
        const Decision decision = make(desk_.template state<State>());
        if (rank() == 0) desk_.template decision<Decision>() = decision;
        sync();
        return Decision(desk_.template decision<Decision>());
    }
    template <typename Value>
    __device__ void publish(Value* to, Value value) const {
        *to = value;
    }
    template <int kCounts>
    __device__ void add_up(unsigned*) const {
        sync();
    }
    __device__ void finish() const {}

  private:
    Desk desk_;
};

// A row for each block of kThreads threads; with kClusters, for each cluster of such blocks.
template <int kThreads_, bool kClusters>
class BlockTeam {
    static constexpr int kWarps = kThreads_ / kWarp, kMostWords = 10;
    // Of the warps. Two, so that the next values can be written while the last ones are still read.
    using Partial = Word[2][kWarps][kMostWords];

  public:
    static constexpr int kThreads = kThreads_, kRowsOfBlock = 1;
    static constexpr size_t kSharedBytes = Desk::kBytes + sizeof(Partial);

    __device__ BlockTeam()
        : desk_(dynamic_shared<unsigned char>()),
          partial_(*reinterpret_cast<Partial*>(dynamic_shared<unsigned char>() + Desk::kBytes)) {
        if constexpr (kClusters) {
            blocks_ = cluster_blocks(), block_ = cluster_rank();
            barrier();  // all are there, and so is their memory
        }
    }

    __device__ int size() const { return blocks_ * kThreads; }
    __device__ int rank() const { return block_ * kThreads + static_cast<int>(threadIdx.x); }
    __device__ int here() const { return kThreads; }
    __device__ int rank_here() const { return static_cast<int>(threadIdx.x); }
    __device__ int team_here() const { return 0; }
    __device__ int64_t first_row() const { return blockIdx.x / blocks_; }
    __device__ int64_t row_step() const { return gridDim.x / blocks_; }
    __device__ void sync() const { __syncthreads(); }

    template <typename State, typename Value, typename Make>
    __device__ auto decide(const Value& value, const Make& make) {
        static_assert(kWords<Value> <= kMostWords);
        using Decision = decltype(make(std::declval<State&>(), value));
        const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
        const Value of_warp = reduce_warp(value);
        phase_ ^= 1;
        if (lane == 0) to_words(of_warp, partial_[phase_][warp]);
        barrier();
        if (warp == 0) {
            Value total{};
            for (int k = lane; k < kWarps * blocks_; k += kWarp) {
                total.merge(from_words<Value>(of_block(partial_[phase_][k % kWarps], k / kWarps)));
            }
            total = reduce_warp(total);
            if (lane == 0) desk_.template decision<Decision>() = make(desk_.template state<State>(), total);
        }
        sync();
        return Decision(desk_.template decision<Decision>());
    }

    template <typename State, typename Make>
    __device__ auto lead(const Make& make) {
        using Decision = decltype(make(std::declval<State&>()));
        sync();  // the last decision is read
        if (threadIdx.x < kWarp) {
            const Decision decision = make(desk_.template state<State>());
            if (threadIdx.x == 0) desk_.template decision<Decision>() = decision;
        }
        sync();
        return Decision(desk_.template decision<Decision>());
    }
    template <typename Value>
    __device__ void publish(Value* to, Value value) const {
        for (int block = 0; block < blocks_; ++block) *of_block(to, block) = value;
    }

    template <int kCounts>
    __device__ void add_up(unsigned* counts) const {
        barrier();
        if (blocks_ == 1) return;
        constexpr int kOfThread = ceil_div(kCounts, kThreads);
        unsigned sums[kOfThread] = {};
        const auto each = [&](const auto& body) {
#pragma unroll
            for (int i = 0; i < kOfThread; ++i) {
                const int k = i * kThreads + static_cast<int>(threadIdx.x);
                if (k < kCounts) body(i, k);
            }
        };
        for (int block = 0; block < blocks_; ++block) {
            each([&](int i, int k) { sums[i] += *of_block(counts + k, block); });
        }
        barrier();  // all counts are read
        each([&](int i, int k) { counts[k] = sums[i]; });
        sync();
    }

    // Other blocks may still read this one's memory.
    __device__ void finish() const {
        if constexpr (kClusters) barrier();
    }

  private:
    Desk desk_;  // every block's: all come to the same decision
    Partial& partial_;
    int blocks_ = 1, block_ = 0, phase_ = 0;

// There are no clusters before architecture 9.0.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
    static __device__ int cluster_blocks() { return cooperative_groups::this_cluster().num_blocks(); }
    static __device__ int cluster_rank() { return cooperative_groups::this_cluster().block_rank(); }
    __device__ void barrier() const {
        if (kClusters && blocks_ > 1) {
            cooperative_groups::this_cluster().sync();
        } else {
            __syncthreads();
        }
    }
    template <typename Value>
    __device__ Value* of_block(Value* values, int block) const {
        return kClusters ? cooperative_groups::this_cluster().map_shared_rank(values, block) : values;
    }
#else
    static __device__ int cluster_blocks() { return 1; }
    static __device__ int cluster_rank() { return 0; }
    __device__ void barrier() const { __syncthreads(); }
    template <typename Value>
    __device__ Value* of_block(Value* values, int) const {
        return values;
    }
#endif
};

// Of the current device.
inline int device_attribute(cudaDeviceAttr attribute) {
    int device = 0, value = 0;
    if (cudaGetDevice(&device) != cudaSuccess ||
        cudaDeviceGetAttribute(&value, attribute, device) != cudaSuccess) {
        throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(cudaGetLastError()));
    }
    return value;
}

// Whether the GPU can launch blocks in clusters, of up to 8.
inline bool has_clusters() { return device_attribute(cudaDevAttrComputeCapabilityMajor) >= 9; }

}  // namespace integralrob::cuda
