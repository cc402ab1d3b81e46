// Thread blocks and thread-block clusters.
#pragma once

#include "cuda_runtime.h"

namespace cooperative_groups {

class thread_block {
  public:
    static void sync(simt::Place place = simt::Place::current()) { simt::block_barrier(0, place); }
    static dim3 thread_index() { return threadIdx; }
    static dim3 group_index() { return blockIdx; }
    static dim3 dim_threads() { return blockDim; }
    static unsigned num_threads() { return blockDim.x * blockDim.y * blockDim.z; }
    static unsigned size() { return num_threads(); }
    static unsigned thread_rank() {
        return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    }
};

class cluster_group {
  public:
    static void sync(simt::Place place = simt::Place::current()) { simt::cluster_barrier(place); }
    static unsigned block_rank() { return simt::cluster_rank(); }
    static dim3 dim_blocks() { return simt::cluster_shape(); }
    static unsigned num_blocks() {
        const dim3 shape = dim_blocks();
        return shape.x * shape.y * shape.z;
    }
    static unsigned num_threads() { return num_blocks() * thread_block::num_threads(); }
    static unsigned thread_rank() {
        return block_rank() * thread_block::num_threads() + thread_block::thread_rank();
    }
    template <typename T>
    static T* map_shared_rank(T* address, unsigned rank) {
        return static_cast<T*>(simt::map_shared(address, rank));
    }
};

inline thread_block this_thread_block() { return {}; }
inline cluster_group this_cluster() { return {}; }

}  // namespace cooperative_groups
