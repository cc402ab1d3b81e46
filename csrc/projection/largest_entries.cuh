// The k-th largest magnitude of a row, by radix selection on the bits of the magnitudes, which are ordered as
// these are. Counts are integers: the order in which they are counted leaves no trace.
#pragma once

#include <cstdint>
#include <type_traits>

#include "common/half.h"
#include "projection/row_entries.cuh"

namespace integralrob::cuda {

template <typename A>
struct Selection {
    using Bits = std::conditional_t<sizeof(A) == 4, uint32_t, uint64_t>;
    Bits least;      // magnitudes from these bits on are selected, zeros never
    uint64_t count;  // how many those are
};

// A digit of the magnitudes: how many have which value.
class DigitCounts {
  public:
    static constexpr int kBits = 10;
    // One more for 32, so that lanes that look at 32 neighbours each meet different banks.
    static constexpr int kSlots = (1 << kBits) / kWarp * (kWarp + 1);
    static constexpr size_t kBytes = kSlots * sizeof(unsigned);

    __device__ explicit DigitCounts(unsigned char* memory) : counts_(reinterpret_cast<unsigned*>(memory)) {}

    template <typename Team>
    __device__ void clear(const Team& team) {
        for (int k = team.rank_here(); k < kSlots; k += team.here()) counts_[k] = 0;
        team.sync();
    }
    __device__ void count(unsigned digit) { atomicAdd(counts_ + slot(digit), 1u); }

    // The digit of the k-th largest; how many are larger, and how many have it. By a warp. With less than k
    // counted, the digit 0 and their number.
    struct Found {
        uint64_t digit, above, here;
    };
    template <typename Team>
    __device__ Found find(Team& team, unsigned k) {
        team.template add_up<kSlots>(counts_);
        return team.template lead<Word>([&](Word&) {
            const int lane = static_cast<int>(threadIdx.x) % kWarp;
            unsigned of_lane = 0;
#pragma unroll 8
            for (int i = 0; i < kWarp; ++i) of_lane += counts_[slot(lane * kWarp + i)];
            const Place group = locate(of_lane, k, 0);
            const Place digit = locate(counts_[slot(group.lane * kWarp + lane)], k, group.above);
            return Found{static_cast<uint64_t>(group.lane * kWarp + digit.lane), digit.above, digit.here};
        });
    }

  private:
    unsigned* counts_;

    static __device__ unsigned slot(unsigned digit) { return digit + digit / kWarp; }

    // Where the k-th is if `above` come before those of the last lane, and those of each before the one's
    // before it; lane 0 if it is nowhere.
    struct Place {
        int lane;
        unsigned above, here;
    };
    static __device__ Place locate(unsigned here, unsigned k, unsigned above) {
        const int lane = static_cast<int>(threadIdx.x) % kWarp;
        unsigned sum = here;  // of this lane and those after it
#pragma unroll
        for (int distance = 1; distance < kWarp; distance *= 2) {
            const unsigned other = __shfl_down_sync(kAllLanes, sum, distance);
            if (lane + distance < kWarp) sum += other;
        }
        const unsigned found = __ballot_sync(kAllLanes, above + sum >= k);
        const int of = found == 0 ? 0 : kWarp - 1 - __clz(static_cast<int>(found));
        return {of, above + __shfl_sync(kAllLanes, sum - here, of), __shfl_sync(kAllLanes, here, of)};
    }
};

// How many of the lowest bits of a magnitude, as A, are 0.
template <typename T>
constexpr int kZeroBits = 0;
template <>
constexpr int kZeroBits<Half> = 13;
template <>
constexpr int kZeroBits<BFloat16> = 16;

// Selects the k largest magnitudes of the first numbers of a row's entries, with all that are as large as the
// least of them. `memory`: DigitCounts::kBytes, shared.
template <typename T, typename Team, typename Entries, typename A = arithmetic_t<T>>
__device__ Selection<A> select_largest(Team& team, Entries& entries, unsigned k, unsigned char* memory) {
    using Bits = typename Selection<A>::Bits;
    using Piece = typename Entries::Piece;
    DigitCounts counts(memory);
    Bits prefix = 0;
    unsigned left = k;
    for (int shift = 8 * sizeof(A) - 1;;) {
        const int width = min(shift - kZeroBits<T>, DigitCounts::kBits);
        const Bits mask = (Bits(1) << width) - 1;
        shift -= width;
        counts.clear(team);
        for_entries(entries, [&](const Piece& piece, int lane) {
            const Bits bits = bit_cast<Bits>(static_cast<A>(fabs(piece.of[0][lane])));
            if (bits != 0 && bits >> shift >> width == prefix) counts.count((bits >> shift) & mask);
        });
        const DigitCounts::Found found = counts.find(team, left);
        prefix = prefix << width | found.digit;
        const bool all = found.above + found.here <= left;  // all that have the digit are selected
        left -= static_cast<unsigned>(min(found.above, uint64_t{left}));
        if (all || shift == kZeroBits<T>) {
            const Bits least = prefix << shift;
            return {least == 0 ? 1 : least, k - left + found.here};
        }
    }
}

}  // namespace integralrob::cuda
