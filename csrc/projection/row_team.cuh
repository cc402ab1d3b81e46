// The threads that work on a row together: a warp, a block, or a cluster of blocks. They reduce values, which
// one warp, the leader, makes a decision of, and shares with all.
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

// A row for each warp of a block.
class WarpTeam {
  public:
    static constexpr size_t kSharedBytes = 0;
    static constexpr int rows_of_block(int threads) { return threads / kWarp; }

    __device__ int size() const { return kWarp; }
    __device__ int rank() const { return static_cast<int>(threadIdx.x) % kWarp; }
    __device__ int64_t first_row() const { return (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / kWarp; }
    __device__ int64_t row_step() const { return int64_t{gridDim.x} * blockDim.x / kWarp; }
    __device__ bool leads() const { return true; }

    template <typename Value>
    __device__ Value reduce(const Value& value) const {
        return reduce_warp(value);
    }
    template <typename Make>
    __device__ auto share(const Make& make) const {
        return make();
    }
    __device__ void finish() const {}
};

// A row for each block of kThreads threads; with kClusters, for each cluster of such blocks. Its memory: the
// first kSharedBytes of the dynamic shared memory.
template <int kThreads, bool kClusters>
class BlockTeam {
    static constexpr int kWarps = kThreads / kWarp, kMostWords = 10;
    struct Board {
        // Two, so that the next values can be written while the last ones are still read.
        Word partial[2][kWarps][kMostWords];
        Word shared[kMostWords];
    };

  public:
    static constexpr size_t kSharedBytes = (sizeof(Board) + 15) / 16 * 16;
    static constexpr int rows_of_block(int) { return 1; }

    __device__ BlockTeam() : board_(*dynamic_shared<Board>()) {
        if constexpr (kClusters) blocks_ = cluster_blocks(), block_ = cluster_rank();
    }

    __device__ int size() const { return blocks_ * kThreads; }
    __device__ int rank() const { return block_ * kThreads + static_cast<int>(threadIdx.x); }
    __device__ int64_t first_row() const { return blockIdx.x / blocks_; }
    __device__ int64_t row_step() const { return gridDim.x / blocks_; }
    // Warp 0 of each block: all of them come to the same decision.
    __device__ bool leads() const { return threadIdx.x < kWarp; }

    // The leaders get it.
    template <typename Value>
    __device__ Value reduce(const Value& value) {
        static_assert(kWords<Value> <= kMostWords);
        const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
        const Value of_warp = reduce_warp(value);
        phase_ ^= 1;
        if (lane == 0) to_words(of_warp, board_.partial[phase_][warp]);
        barrier();
        Value total{};
        if (leads()) {
            for (int k = lane; k < kWarps * blocks_; k += kWarp) {
                total.merge(from_words<Value>(of_block(board_.partial[phase_][k % kWarps], k / kWarps)));
            }
            total = reduce_warp(total);
        }
        return total;
    }

    // What the leader makes, once for each reduce().
    template <typename Make>
    __device__ auto share(const Make& make) {
        using Value = decltype(make());
        static_assert(sizeof(Value) <= sizeof(board_.shared));
        if (leads()) {
            const Value value = make();
            if (threadIdx.x == 0) to_words(value, board_.shared);
        }
        __syncthreads();
        return from_words<Value>(board_.shared);
    }

    // Before the end: other blocks may still read this one's memory.
    __device__ void finish() const {
        if constexpr (kClusters) barrier();
    }

  private:
    Board& board_;
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
    __device__ const Word* of_block(Word* words, int block) const {
        return kClusters ? cooperative_groups::this_cluster().map_shared_rank(words, block) : words;
    }
#else
    static __device__ int cluster_blocks() { return 1; }
    static __device__ int cluster_rank() { return 0; }
    __device__ void barrier() const { __syncthreads(); }
    __device__ const Word* of_block(Word* words, int) const { return words; }
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

// Whether blocks can be launched in clusters, of up to 8.
inline bool has_clusters() { return device_attribute(cudaDevAttrComputeCapabilityMajor) >= 9; }

}  // namespace integralrob::cuda
