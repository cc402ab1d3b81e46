// The entries of rows that threads work on together (row_team.cuh), and where they are between one pass over
// a row and the next. A row stays on the chip from its first pass to its last, so that each tensor crosses
// the device's memory once: in the registers of a warp or of a block, or in the shared memory of a cluster of
// blocks. Longer rows are read again in each pass.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "common/half.h"
#include "common/tuning.h"
#include "common/vector.cuh"
#include "projection/row_team.cuh"

namespace integralrob::cuda {

// A row of contiguous tensors [rows, length], 16 bytes at a time; zeros where it is at its end.
template <typename T>
class RowMemory {
  public:
    const int64_t length;

    // `vectors`: rows are made of whole vectors, all aligned.
    __device__ RowMemory(int64_t row, int64_t length_, bool vectors)
        : length(length_), first_(row * length_), vectors_(vectors) {}

    __device__ Vector<T> load(const T* from, int64_t k) const {
        from += first_ + k;
        if (vectors_) return cuda::load(from);
        Vector<T> part;
#pragma unroll
        for (int lane = 0; lane < kLanes<T>; ++lane) {
            part.lane[lane] = k + lane < length ? from[lane] : T{};
        }
        return part;
    }
    __device__ void store(T* to, int64_t k, const Vector<T>& part) const {
        to += first_ + k;
        if (vectors_) return cuda::store(to, part);
#pragma unroll
        for (int lane = 0; lane < kLanes<T>; ++lane) {
            if (k + lane < length) to[lane] = part.lane[lane];
        }
    }

  private:
    int64_t first_;
    bool vectors_;
};

// As many entries as 16 bytes of a tensor hold, each of kFields numbers.
template <typename T, int kFields_>
struct Piece {
    using A = arithmetic_t<T>;
    static constexpr int kFields = kFields_, kEntries = kLanes<T>;
    A of[kFields][kEntries];
};

// A row, where its pieces come from, has
//   Piece, length
//   load(k)                    the piece from entry k on, from the device's memory
//   advance(stage, k, piece)   makes it the piece of that stage, of the kStages after the one that is loaded
//   kPiecesOnTheirWay          loaded by a thread at a time, where it does not keep them
//   kResident                  blocks that a multiprocessor must have room for where they keep it in shared
//                              memory; 0: as the compiler likes
//
// The places that follow have
//   kResident           likewise
//   each(batch, body)   body(k, piece) for the pieces of the thread; in `batches` of up to 512 entries
//   advance(stage)      of all pieces
// Thread t of a team of n has the pieces t, t + n, ...

// Their bodies for all entries of a thread: body(piece, lane).
template <typename Entries, typename Body>
__device__ __forceinline__ void for_entries(Entries& entries, const Body& body) {
    using Piece = typename Entries::Piece;
    for (int64_t batch = 0; batch < entries.batches; ++batch) {
        entries.each(batch, [&](int64_t, const Piece& piece) {
#pragma unroll
            for (int lane = 0; lane < Piece::kEntries; ++lane) body(piece, lane);
        });
    }
}

// Likewise, with the sums that body(sums, piece, lane) adds to.
template <typename Sums, typename Entries, typename Body>
__device__ __forceinline__ auto sum_entries(Entries& entries, const Body& body) {
    using Piece = typename Entries::Piece;
    decltype(Sums().total()) total{};
    for (int64_t batch = 0; batch < entries.batches; ++batch) {
        Sums sums;
        entries.each(batch, [&](int64_t, const Piece& piece) {
#pragma unroll
            for (int lane = 0; lane < Piece::kEntries; ++lane) body(sums, piece, lane);
        });
        total.merge(sums.total());
    }
    return total;
}

// body(k, piece) for all pieces of a thread.
template <typename Entries, typename Body>
__device__ __forceinline__ void for_pieces(Entries& entries, const Body& body) {
    for (int64_t batch = 0; batch < entries.batches; ++batch) entries.each(batch, body);
}

// In registers; kPieces for a thread are as many as there can be.
template <typename Row, int kPieces>
class InRegisters {
  public:
    using Piece = typename Row::Piece;
    static constexpr int64_t batches = 1;
    // The compiler's own limit, 128 registers, is one number too low for float64.
    static constexpr int kResident = sizeof(typename Piece::A) == 8 ? 1 : 0;
    static int64_t bytes_of_block(int64_t, int, int) { return 0; }

    template <typename Team>
    __device__ InRegisters(const Row& row, const Team& team, unsigned char*)
        : row_(row), first_(team.rank() * Piece::kEntries), step_(team.size() * Piece::kEntries) {
        for_pieces([&](int k, Piece& piece) { piece = row_.load(k); });
    }

    template <typename Body>
    __device__ __forceinline__ void each(int64_t, const Body& body) {
        for_pieces(body);
    }
    __device__ __forceinline__ void advance(int stage) {
        for_pieces([&](int k, Piece& piece) { row_.advance(stage, k, piece); });
    }

  private:
    const Row& row_;
    Piece pieces_[kPieces];
    int first_, step_;

    template <typename Body>
    __device__ __forceinline__ void for_pieces(const Body& body) {
#pragma unroll
        for (int i = 0; i < kPieces; ++i) {
            const int k = first_ + i * step_;
            if (k < row_.length) body(k, pieces_[i]);
        }
    }
};

// In shared memory: 16 bytes of neighbouring threads side by side.
template <typename Row>
class InSharedMemory {
  public:
    using Piece = typename Row::Piece;
    static constexpr int64_t batches = 1;
    static constexpr int kResident = Row::kResident;
    static int64_t bytes_of_block(int64_t length, int blocks, int threads) {
        return ceil_div<int64_t>(length, int64_t{blocks} * threads * Piece::kEntries) * threads *
               sizeof(Piece);
    }

    template <typename Team>
    __device__ InSharedMemory(const Row& row, const Team& team, unsigned char* memory)
        : row_(row),
          first_(team.rank() * Piece::kEntries),
          step_(team.size() * Piece::kEntries),
          parts_(reinterpret_cast<Part*>(memory) + threadIdx.x) {
        for_pieces([&](int k, Part* to) { write(row_.load(k), to); });
    }

    template <typename Body>
    __device__ __forceinline__ void each(int64_t, const Body& body) {
        for_pieces([&](int k, const Part* from) { body(k, read(from)); });
    }
    __device__ __forceinline__ void advance(int stage) {
        for_pieces([&](int k, Part* part) {
            Piece piece = read(part);
            row_.advance(stage, k, piece);
            write(piece, part);
        });
    }

  private:
    using A = typename Piece::A;
    using Part = Vector<A>;
    static constexpr int kParts = Piece::kEntries / kLanes<A>;  // of a field

    const Row& row_;
    int first_, step_;
    Part* parts_;

    template <typename Body>
    __device__ __forceinline__ void for_pieces(const Body& body) {
        Part* part = parts_;
#pragma unroll(Piece::kEntries* Piece::kFields > 8 ? 1 : 2)
        for (int k = first_; k < row_.length; k += step_, part += Piece::kFields * kParts * blockDim.x) {
            body(k, part);
        }
    }
    static __device__ __forceinline__ Piece read(const Part* from) {
        Piece piece;
#pragma unroll
        for (int i = 0; i < Piece::kFields * kParts; ++i) {
            const Part part = from[i * blockDim.x];
#pragma unroll
            for (int lane = 0; lane < kLanes<A>; ++lane) {
                piece.of[i / kParts][i % kParts * kLanes<A> + lane] = part.lane[lane];
            }
        }
        return piece;
    }
    static __device__ __forceinline__ void write(const Piece& piece, Part* to) {
#pragma unroll
        for (int i = 0; i < Piece::kFields * kParts; ++i) {
            Part part;
#pragma unroll
            for (int lane = 0; lane < kLanes<A>; ++lane) {
                part.lane[lane] = piece.of[i / kParts][i % kParts * kLanes<A> + lane];
            }
            to[i * blockDim.x] = part;
        }
    }
};

// In the device's memory, or its cache: loaded again in each pass.
template <typename Row>
class InDeviceMemory {
  public:
    using Piece = typename Row::Piece;
    const int64_t batches;
    static constexpr int kResident = 0;
    static int64_t bytes_of_block(int64_t, int, int) { return 0; }

    template <typename Team>
    __device__ InDeviceMemory(const Row& row, const Team& team, unsigned char*)
        : batches(ceil_div<int64_t>(row.length, int64_t{team.size()} * kBatch)),
          row_(row),
          first_(int64_t{team.rank()} * Piece::kEntries),
          step_(int64_t{team.size()} * Piece::kEntries) {}

    template <typename Body>
    __device__ __forceinline__ void each(int64_t batch, const Body& body) {
        int64_t first = first_ + batch * (kBatch / Piece::kEntries) * step_;
#pragma unroll 1
        for (int round = 0; round < kRounds && first < row_.length; ++round, first += kPieces * step_) {
            Piece pieces[kPieces];
#pragma unroll
            for (int i = 0; i < kPieces; ++i) {
                if (first + i * step_ < row_.length) pieces[i] = row_.load(first + i * step_);
            }
#pragma unroll
            for (int i = 0; i < kPieces; ++i) {
                const int64_t k = first + i * step_;
                if (k >= row_.length) continue;
                if constexpr (Row::kStages > 0) {
                    for (int stage = 1; stage <= stage_; ++stage) row_.advance(stage, k, pieces[i]);
                }
                body(k, pieces[i]);
            }
        }
    }
    __device__ void advance(int stage) { stage_ = stage; }

  private:
    // Entries of a thread in a batch, and pieces on their way at a time.
    static constexpr int kBatch = 256, kPieces = Row::kPiecesOnTheirWay;
    static constexpr int kRounds = kBatch / (kPieces * Piece::kEntries);

    const Row& row_;
    int64_t first_, step_;
    int stage_ = 0;
};

// A task has
//   Row                       made of the task and the number of a row
//   rows, length
//   kScratch                  bytes of shared memory that it needs for each team
//   run(team, row, entries, scratch)
template <typename Team, typename Entries, typename Task>
__global__ void __launch_bounds__(Team::kThreads, Entries::kResident) for_rows(Task task) {
    Team team;
    unsigned char* scratch = dynamic_shared<unsigned char>() + Team::kSharedBytes;
    for (int64_t r = team.first_row(); r < task.rows; r += team.row_step()) {
        typename Task::Row row(task, r);
        Entries entries(row, team, scratch + Team::kRowsOfBlock * Task::kScratch);
        task.run(team, row, entries, scratch + team.team_here() * Task::kScratch);
    }
    team.finish();
}

enum class Place { kAny, kWarp, kBlock, kCluster, kDeviceMemory };

struct Device {
    bool clusters;         // of up to 8 blocks
    bool large_clusters;   // of 16
    int64_t shared_bytes;  // of a block

    static Device current() {
        const int major = device_attribute(cudaDevAttrComputeCapabilityMajor);
        return {has_clusters(), major == 9 || major == 10,
                device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin)};
    }
};

// Pieces of a thread in registers.
template <typename Row>
constexpr int kPiecesOfThread =
    ceil_div(kBallEntries * 4 / static_cast<int>(sizeof(typename Row::Piece::A)), Row::Piece::kEntries);

template <typename Team, typename Entries, typename Task>
Launch shape_of(const Task& task, const char* purpose, int cluster) {
    const size_t of_entries = Entries::bytes_of_block(task.length, cluster, Team::kThreads);
    return {.blocks = ceil_div<int64_t>(task.rows, Team::kRowsOfBlock) * cluster,
            .threads = Team::kThreads,
            .shared_bytes = Team::kSharedBytes + Team::kRowsOfBlock * Task::kScratch + of_entries,
            .cluster = cluster,
            .purpose = purpose};
}

template <typename Team, typename Entries, typename Task>
void launch_rows_of(const Task& task, const char* purpose, int cluster, cudaStream_t stream) {
    launch(for_rows<Team, Entries, Task>, shape_of<Team, Entries>(task, purpose, cluster), stream, task);
}

// `place`: for tests; kAny chooses.
template <typename Task>
void launch_rows(const Task& task, const char* purpose, Place place, const Device& device,
                 cudaStream_t stream) {
    using Row = typename Task::Row;
    using Warp = WarpTeam<kBallThreads>;
    using Block = BlockTeam<kBallThreads, false>;
    using Cluster = BlockTeam<kBallLargeThreads, true>;
    using Registers = InRegisters<Row, kPiecesOfThread<Row>>;
    constexpr int64_t kOfThread = kPiecesOfThread<Row> * Row::Piece::kEntries;
    if (task.length == 0) return;

    if (place == Place::kAny && task.length <= kOfThread * kBallThreads) {
        place = task.length <= kOfThread * kWarp ? Place::kWarp : Place::kBlock;
    }
    using Shared = InSharedMemory<Row>;
    const bool clusters = place != Place::kWarp && place != Place::kBlock && device.clusters &&
                          knows_clusters(for_rows<Cluster, Shared, Task>);
    const auto shared_bytes = [&](int cluster) {
        return static_cast<int64_t>(shape_of<Cluster, Shared>(task, purpose, cluster).shared_bytes);
    };
    const int portable = clusters ? 8 : 1, most = clusters && device.large_clusters ? 16 : portable;
    int cluster = 1;
    while (cluster < portable && shared_bytes(cluster) > kBallSharedBytes) cluster *= 2;
    while (cluster < most && shared_bytes(cluster) > device.shared_bytes) cluster *= 2;
    const auto fits = [&] {
        return shared_bytes(cluster) <= device.shared_bytes &&
               (cluster <= portable ||
                has_room(for_rows<Cluster, Shared, Task>, shape_of<Cluster, Shared>(task, purpose, cluster)));
    };
    if (place == Place::kAny) place = fits() ? Place::kCluster : Place::kDeviceMemory;
    const auto launch_for = [&]<typename Team, typename Entries>(int cluster) {
        launch_rows_of<Team, Entries>(task, purpose, cluster, stream);
    };
    switch (place) {
        case Place::kWarp:
            return launch_for.template operator()<Warp, Registers>(1);
        case Place::kBlock:
            return launch_for.template operator()<Block, Registers>(1);
        case Place::kCluster:
            return launch_for.template operator()<Cluster, Shared>(cluster);
        default:
            return launch_for.template operator()<Cluster, InDeviceMemory<Row>>(portable);
    }
}

// For tasks that keep nothing of a row: from the second time on it comes from the caches. `place`: likewise;
// kCluster and kDeviceMemory are the same.
template <typename Task>
void stream_rows(const Task& task, const char* purpose, Place place, bool clusters, cudaStream_t stream) {
    using Entries = InDeviceMemory<typename Task::Row>;
    constexpr int64_t kOfThread = 32;  // entries at most, where more threads can have them
    if (place == Place::kAny) {
        place = task.length <= kOfThread * kWarp          ? Place::kWarp
                : task.length <= kOfThread * kBallThreads ? Place::kBlock
                                                          : Place::kCluster;
    }
    using Team = BlockTeam<kBallLargeThreads, true>;
    if (place != Place::kWarp && place != Place::kBlock) {
        clusters = clusters && knows_clusters(for_rows<Team, Entries, Task>);
    }
    int cluster = 1;
    while (clusters && cluster < 8 && cluster * kBallLargeThreads * kOfThread < task.length) cluster *= 2;
    switch (place) {
        case Place::kWarp:
            return launch_rows_of<WarpTeam<kBallThreads>, Entries>(task, purpose, 1, stream);
        case Place::kBlock:
            return launch_rows_of<BlockTeam<kBallThreads, false>, Entries>(task, purpose, 1, stream);
        default:
            return launch_rows_of<Team, Entries>(task, purpose, cluster, stream);
    }
}

}  // namespace integralrob::cuda
