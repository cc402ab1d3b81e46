// The columns of the control values that one thread works on, and its sums over rows of them.
#pragma once

#include "common/vector.cuh"
#include "sampling/axis.cuh"

namespace integralrob::cuda {

// A vector of control values as it lies in memory: 16-bit values in pairs, so that rows kept in registers
// take no more of them than they have words.
template <typename T>
class Packed {
  public:
    Packed() = default;
    __device__ explicit Packed(const T* from) : words_(load(reinterpret_cast<const uint32_t*>(from))) {}

    __device__ T operator[](int lane) const {
        if constexpr (sizeof(T) == 2) {
            return bit_cast<T>(static_cast<uint16_t>(words_.lane[lane / 2] >> (lane % 2 * 16)));
        } else if constexpr (sizeof(T) == 4) {
            return bit_cast<T>(words_.lane[lane]);
        } else {
            return bit_cast<T>(uint64_t(words_.lane[2 * lane + 1]) << 32 | words_.lane[2 * lane]);
        }
    }
    // Each lane once, of a vector of zeros.
    __device__ void set(int lane, T value) {
        if constexpr (sizeof(T) == 2) {
            words_.lane[lane / 2] |= uint32_t(bit_cast<uint16_t>(value)) << (lane % 2 * 16);
        } else if constexpr (sizeof(T) == 4) {
            words_.lane[lane] = bit_cast<uint32_t>(value);
        } else {
            words_.lane[2 * lane] = static_cast<uint32_t>(bit_cast<uint64_t>(value));
            words_.lane[2 * lane + 1] = static_cast<uint32_t>(bit_cast<uint64_t>(value) >> 32);
        }
    }

  private:
    Vector<uint32_t> words_ = {};
};

// The columns of one thread: a vector where rows are aligned for it, else up to as many single columns,
// `stride` apart.
template <typename T>
struct Columns {
    const T* first;  // of the columns, in row 0
    int64_t pitch;   // from row to row
    int stride;      // 0: a vector
    int count;

    __device__ Packed<T> load(int64_t row) const {
        Packed<T> x;
        if (count == 0) return x;
        const T* from = first + row * pitch;
        if (stride == 0) return Packed<T>(from);
#pragma unroll
        for (int lane = 0; lane < kLanes<T>; ++lane) {
            if (lane < count) x.set(lane, from[lane * stride]);
        }
        return x;
    }
};

template <typename T>
struct RowSum {
    using A = arithmetic_t<T>;

    A lane[kLanes<T>] = {};

    // A weight of zero does not read: NaN and infinity stay where they are.
    __device__ void add(A weight, const Packed<T>& row) {
        if (weight == A(0)) return;
#pragma unroll
        for (int k = 0; k < kLanes<T>; ++k) lane[k] += weight * widen(row[k]);
    }

    __device__ void add(const Axis<A>& axis, const TapRange& taps, const Columns<T>& columns) {
#pragma unroll 4
        for (int64_t k = taps.begin; k < taps.end; ++k) add(weight_of(axis, k), columns.load(taps.node(k)));
        if (!taps.valid) add(not_a_number<A>(), Packed<T>());
    }
};

}  // namespace integralrob::cuda
