// The constants of the CUDA kernels that only a measurement can choose; none changes a result. Each can be
// set when compiling (-DINTEGRALROB_NAME=value); `python -m benchmarks.sweep` measures other values. One that
// ends in 16, 32 or 64 is for tensors of so many bits an element.
#pragma once

#include <cstddef>
#include <cstdint>

namespace integralrob::cuda {

// -----------------------------------------------------------------------------------------------
// sample_tiles

// Threads of a tile, each with 16 bytes of its rows of values. More: wider tiles, so fewer values that two
// tiles read; but more threads wait at each barrier, and fewer tiles share a multiprocessor, to work
// meanwhile. Twice as many for 32 bits as for 16 make tiles of as many columns, and so of as much memory.
#ifndef INTEGRALROB_TILE_THREADS_16
#define INTEGRALROB_TILE_THREADS_16 128
#endif
#ifndef INTEGRALROB_TILE_THREADS_32
#define INTEGRALROB_TILE_THREADS_32 256
#endif
#ifndef INTEGRALROB_TILE_THREADS_64
#define INTEGRALROB_TILE_THREADS_64 256
#endif

// Threads that a multiprocessor must have room for. More: more loads on their way; but fewer registers for
// each, of which the ring of rows takes 4 a slot, and spills where they do not suffice.
#ifndef INTEGRALROB_TILE_RESIDENT_16
#define INTEGRALROB_TILE_RESIDENT_16 384
#endif
#ifndef INTEGRALROB_TILE_RESIDENT_32
#define INTEGRALROB_TILE_RESIDENT_32 512
#endif
#ifndef INTEGRALROB_TILE_RESIDENT_64
#define INTEGRALROB_TILE_RESIDENT_64 512
#endif

// Slots of the ring of rows, for up to 4 and up to 8 taps: half are for the taps, the others for rows on
// their way. 0: no ring, rows are read again for each row of the result. More: longer latencies are hidden;
// but more registers.
#ifndef INTEGRALROB_TILE_SLOTS_4_TAPS
#define INTEGRALROB_TILE_SLOTS_4_TAPS 8
#endif
#ifndef INTEGRALROB_TILE_SLOTS_8_TAPS
#define INTEGRALROB_TILE_SLOTS_8_TAPS 16
#endif

// Rows of the result in a tile, at least and at most. More: tiles above each other share fewer rows, which
// both read; but fewer tiles, which fill the GPU less evenly.
#ifndef INTEGRALROB_TILE_ROWS_LEAST
#define INTEGRALROB_TILE_ROWS_LEAST 8
#endif
#ifndef INTEGRALROB_TILE_ROWS_MOST
#define INTEGRALROB_TILE_ROWS_MOST 32
#endif

// Tiles for so many times the threads that are resident at once, between these limits of rows. More: less
// idleness at the end; but lower tiles.
#ifndef INTEGRALROB_TILE_WAVES
#define INTEGRALROB_TILE_WAVES 4
#endif

// ------------------------------------------------------------------------------------------------
// sample_rows

// Threads of a block. They do not wait for each other: fewer only fill a multiprocessor more evenly.
#ifndef INTEGRALROB_ROWS_THREADS
#define INTEGRALROB_ROWS_THREADS 128
#endif

// Threads that a multiprocessor must have room for: as for tiles, with a window in the place of the ring.
#ifndef INTEGRALROB_ROWS_RESIDENT
#define INTEGRALROB_ROWS_RESIDENT 384
#endif

// Rows in a window, a power of two, for up to 4 taps and for more. More: rows are loaded further ahead; but
// more registers, and moves among them.
#ifndef INTEGRALROB_ROWS_WINDOW_4_TAPS
#define INTEGRALROB_ROWS_WINDOW_4_TAPS 8
#endif
#ifndef INTEGRALROB_ROWS_WINDOW
#define INTEGRALROB_ROWS_WINDOW 16
#endif

// Results of a thread, at least and at most, and waves: as for tiles.
#ifndef INTEGRALROB_ROWS_LEAST
#define INTEGRALROB_ROWS_LEAST 4
#endif
#ifndef INTEGRALROB_ROWS_MOST
#define INTEGRALROB_ROWS_MOST 32
#endif
#ifndef INTEGRALROB_ROWS_WAVES
#define INTEGRALROB_ROWS_WAVES 4
#endif

// -------------------------------------------------------------------------------- linf_step and project_linf

// Threads of a block.
#ifndef INTEGRALROB_MAP_THREADS
#define INTEGRALROB_MAP_THREADS 256
#endif

// Vectors of 16 bytes that a thread has on their way, at least, those of all its inputs together. More: fewer
// threads hide the latency; but more registers for each, and small tensors fill less of the GPU. 4 are 64 KB
// a multiprocessor with a thousand threads; to hide 700 ns at 4.8 TB/s, each of an H200's 132 needs 25 KB.
#ifndef INTEGRALROB_MAP_VECTORS
#define INTEGRALROB_MAP_VECTORS 4
#endif

// Threads that a multiprocessor must have room for; 0: as the compiler likes, which is not the same as one
// block. More: smaller tensors fill a multiprocessor; but fewer registers for each.
#ifndef INTEGRALROB_MAP_RESIDENT
#define INTEGRALROB_MAP_RESIDENT 0
#endif

// ----------------------------------------------------- project_l1, project_l2 and their steps: rows on chip

// Threads of a block whose registers hold a row, or a row for each of its warps.
#ifndef INTEGRALROB_BALL_THREADS
#define INTEGRALROB_BALL_THREADS 128
#endif

// Entries that a thread has in registers, half as many of float64: of a projection, two numbers each; of a
// step, three. More: longer rows stay in registers; but fewer threads share a multiprocessor.
#ifndef INTEGRALROB_BALL_ENTRIES
#define INTEGRALROB_BALL_ENTRIES 24
#endif

// Threads of a block whose shared memory holds a row, or its part of one. More: fewer of them wait at the
// same time; but fewer registers for each.
#ifndef INTEGRALROB_BALL_LARGE_THREADS
#define INTEGRALROB_BALL_LARGE_THREADS 512
#endif

// KB of shared memory that a block should take at most; where a row takes more, more blocks share it. Two of
// 110 fit a multiprocessor of 228 KB: one loads while the other computes.
#ifndef INTEGRALROB_BALL_SHARED
#define INTEGRALROB_BALL_SHARED 110
#endif

// ------------------------------------------------------------------------------------- as kernels see them

constexpr int by_size(size_t bytes, int of16, int of32, int of64) {
    return bytes == 2 ? of16 : bytes == 4 ? of32 : of64;
}

template <typename T>
constexpr int kTileThreads =
    by_size(sizeof(T), INTEGRALROB_TILE_THREADS_16, INTEGRALROB_TILE_THREADS_32, INTEGRALROB_TILE_THREADS_64);
template <typename T>
constexpr int kTileResident = by_size(sizeof(T), INTEGRALROB_TILE_RESIDENT_16, INTEGRALROB_TILE_RESIDENT_32,
                                      INTEGRALROB_TILE_RESIDENT_64);
constexpr int kTileSlots4Taps = INTEGRALROB_TILE_SLOTS_4_TAPS,
              kTileSlots8Taps = INTEGRALROB_TILE_SLOTS_8_TAPS;
constexpr int kTileRowsLeast = INTEGRALROB_TILE_ROWS_LEAST, kTileRowsMost = INTEGRALROB_TILE_ROWS_MOST;
constexpr int64_t kTileWaves = INTEGRALROB_TILE_WAVES;

constexpr int kRowsThreads = INTEGRALROB_ROWS_THREADS, kRowsResident = INTEGRALROB_ROWS_RESIDENT;
constexpr int kRowsWindow4Taps = INTEGRALROB_ROWS_WINDOW_4_TAPS, kRowsWindow = INTEGRALROB_ROWS_WINDOW;
constexpr int kRowsLeast = INTEGRALROB_ROWS_LEAST, kRowsMost = INTEGRALROB_ROWS_MOST;
constexpr int64_t kRowsWaves = INTEGRALROB_ROWS_WAVES;

constexpr int kMapThreads = INTEGRALROB_MAP_THREADS, kMapResident = INTEGRALROB_MAP_RESIDENT;
constexpr int kMapVectors = INTEGRALROB_MAP_VECTORS;

constexpr int kBallThreads = INTEGRALROB_BALL_THREADS, kBallLargeThreads = INTEGRALROB_BALL_LARGE_THREADS;
constexpr int kBallEntries = INTEGRALROB_BALL_ENTRIES;
constexpr int64_t kBallSharedBytes = int64_t{INTEGRALROB_BALL_SHARED} << 10;
static_assert(kBallLargeThreads >= 64 && kBallEntries <= 512, "a thread adds up 512 entries (fixed_sum.cuh)");

}  // namespace integralrob::cuda
