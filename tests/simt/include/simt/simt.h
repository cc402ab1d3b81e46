// What the headers ask of the emulator's runtime (simt.cpp).
#pragma once

#include <cstddef>
#include <cstdint>
#include <source_location>

#include "simt/vector_types.h"

namespace simt {

using Place = std::source_location;

// The order in which threads and blocks run, and the garbage in shared memory, are functions of the seed.
// Without a call: the environment variable INTEGRALROB_SIMT_SEED, else 0.
void set_seed(uint64_t seed);

// The dynamic shared memory of the running block, of exactly the size that the launch asked for.
void* dynamic_shared_memory();

struct Kernel {
    const void* address;       // what names it
    void (*run)(const void*);  // called once for each thread,
    const void* arguments;     // with this
};

// Runs all threads to their end. Throws std::runtime_error that tells kernel, block, thread and place if they
// would hang on a GPU, and whatever a thread throws.
void run_grid(const Kernel& kernel, dim3 grid, dim3 block, dim3 cluster, size_t dynamic_shared_bytes);

// Gives way to another thread, chosen at random.
void yield();

struct Votes {
    int positive, all;
};
// Waits for all threads of the block (of the cluster); counts the votes that are not 0.
Votes block_barrier(int vote, Place place);
void cluster_barrier(Place place);

enum class Collective { barrier, shuffle, ballot, match, sum, least, most, least_unsigned, most_unsigned };
// Waits for the lanes of the mask. Returns, for `shuffle`, the bits that the lane `source` gave (garbage when
// it takes no part); for `ballot`, the mask of the lanes with bits != 0; for `match`, of those with equal
// bits; else the reduction of the 32-bit numbers.
uint64_t collective(Collective kind, const char* name, unsigned mask, uint64_t bits, unsigned source,
                    Place place);

// The same place in the shared memory, static or dynamic, of another block of the cluster.
void* map_shared(const void* address, unsigned rank);
unsigned cluster_rank();
dim3 cluster_shape();

}  // namespace simt
