// An emulator of CUDA for tests: it runs unmodified .cu files on the host, without a GPU.
//
//   g++ -std=c++20 -x c++ -I tests/simt/include -Wno-unknown-pragmas kernel.cu
//       tests/simt/{fiber,grid,host_api,shared_memory,symbol_name}.cpp
//
// This file is found in the place of the real one. Kernels are launched with cudaLaunchKernelEx, which runs
// the grid to its end, block after block in a random order. Each thread of a block has a stack of its own (a
// fiber) and runs until it waits: at a barrier or in a warp collective; at an atomic it may. Then one of the
// threads that can go on is chosen at random. The blocks of a cluster run together, those of different
// clusters never.
// `__shared__` variables are thread-local ones of the host: the linker puts those without initial value side
// by side, so that the emulator can fill all of them with garbage before each block, and exchange them when
// it switches between the blocks of a cluster. (Hence: no other zero-initialised thread_local in the
// executable or library that holds the kernels.) Dynamic shared memory is simt::dynamic_shared_memory(), on
// the heap.
//
// What it finds:
// - threads that wait for others that never come (a barrier in a branch or after a return, a lane that a mask
//   names and that stays away): the launch throws std::runtime_error, which tells where every thread is;
// - launches that a GPU refuses (too many threads, too much shared memory, bad clusters): the error code;
// - races, and reads of shared memory that nobody has written: results differ from seed to seed
//   (INTEGRALROB_SIMT_SEED in the environment, or simt::set_seed), and are the same for the same seed;
// - with -fsanitize=address,undefined: accesses outside of global, local and dynamic shared memory, of static
//   shared arrays by their index (not through a pointer: AddressSanitizer leaves thread-local variables
//   alone), misaligned vectors, signed overflow.
//
// What it cannot find:
// - races that need a switch between two accesses without a barrier, collective or atomic between them; the
//   lack of __threadfence or volatile (memory is coherent, the compiler's reordering aside); races between
//   clusters, but for their order;
// - the same barrier reached by different ways (it is known by its place in the source, and a function's
//   barrier is at one place for all its callers);
// - an overrun from one array into the next within the same dynamic shared memory; a stale value that an
//   earlier round of the same block has left (the garbage is renewed for each block);
// - what is compiled for a GPU only, such as the one-instruction conversions in common/half.h;
// - waiting for another cluster, or in a loop without an atomic: it never ends;
// - __launch_bounds__, static shared memory above 48 KiB, registers, local arrays beyond what a stack of
//   64 KiB holds (it ends with a segmentation fault), and anything about speed.
#pragma once

// Execution spaces, and hints to the compiler: without meaning here.
#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __launch_bounds__(...)
#define __noinline__  // empty, because the standard library says __attribute__((__noinline__))
#define __forceinline__ inline __attribute__((always_inline))
#define __restrict__ __restrict
#define __align__(n) __attribute__((aligned(n)))
// `used`: the emulator writes it too, so the compiler must not conclude that it is zero for ever.
#define __shared__ __attribute__((used)) static thread_local

#include "simt/device_api.h"
#include "simt/host_api.h"
#include "simt/simt.h"
#include "simt/vector_types.h"
