// Rows on the CPU: their chunks over threads, vectors of entries, and sums that are right to a rounding.
#pragma once

#include <algorithm>
#include <utility>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "common/cpu_vector.h"
#include "projection/ball_search.h"
#include "projection/projection_kernels.h"

#if defined(__clang__)
#define INTEGRALROB_INDEPENDENT_ITERATIONS _Pragma("clang loop vectorize(assume_safety)")
#else
#define INTEGRALROB_INDEPENDENT_ITERATIONS _Pragma("GCC ivdep")
#endif

namespace integralrob::INTEGRALROB_ISA_NAMESPACE {

// The sums of a chunk are taken by one thread, and those of the chunks are added in order: a result does not
// depend on the number of threads.
constexpr int64_t kChunk = 4096;

// Buffers are filled up to whole strides with zeros, which no sum notices.
template <typename A>
constexpr int64_t kStride = 2 * kLanes<A>;

constexpr int64_t round_up(int64_t x, int64_t y) { return (x + y - 1) / y * y; }

// body(begin, end) for ranges that make up [0, count).
template <typename Body>
void for_range(ParallelFor parallel, int64_t count, const Body& body) {
    if (parallel == nullptr) return body(int64_t{0}, count);
    parallel(
        count,
        [](const void* context, int64_t begin, int64_t end) {
            (*static_cast<const Body*>(context))(begin, end);
        },
        &body);
}

// of(i) for each of `count` chunks, added up by Result::add.
template <typename Result, typename Of>
Result add_up(ParallelFor parallel, int64_t count, const Of& of) {
    Result result;
    if (parallel == nullptr) {
        for (int64_t i = 0; i < count; ++i) result.add(of(i));
    } else {
        const Scratch<Result> parts(count);
        for_range(parallel, count, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) parts.data()[i] = of(i);
        });
        for (int64_t i = 0; i < count; ++i) result.add(parts.data()[i]);
    }
    return result;
}

template <typename A>
using Lane = typename Vector<A, kLanes<A>>::type;

// body<V>(k) for the entries k of [0, count): as many at once as V has lanes, or one where V is A.
template <typename A, typename Body>
INTEGRALROB_INLINE void for_entries(int64_t count, const Body& body) {
    const int64_t whole = count - count % kLanes<A>;
    for (int64_t k = 0; k < whole; k += kLanes<A>) body.template operator()<Lane<A>>(k);
    for (int64_t k = whole; k < count; ++k) body.template operator()<A>(k);
}

template <typename V, typename T>
INTEGRALROB_INLINE V load(const T* from) {
    using A = arithmetic_t<T>;
    if constexpr (std::is_same_v<V, A>) {
        return widen(*from);
    } else {
        return Vector<A, kLanes<A>>::load(from).lanes;
    }
}

template <typename V, typename A>
INTEGRALROB_INLINE void store(V x, A* to) {
    std::memcpy(to, &x, sizeof(V));
}

// Stores x and y from those lanes on where x is larger than the bound, or no number, side by side; what
// follows them, up to a whole vector, is anything. Returns how many these are.
template <typename A>
INTEGRALROB_INLINE int store_if_above(A x, A y, A bound, A* xs, A* ys) {
    *xs = x;
    *ys = y;
    return x <= bound ? 0 : 1;
}
template <typename A>
INTEGRALROB_INLINE int store_if_above(Lane<A> x, Lane<A> y, A bound, A* xs, A* ys) {
#if defined(__AVX512F__)
    if constexpr (sizeof(A) == 4) {
        const __mmask16 above = _mm512_cmp_ps_mask(x, _mm512_set1_ps(bound), _CMP_NLE_UQ);
        _mm512_storeu_ps(xs, _mm512_maskz_compress_ps(above, x));
        _mm512_storeu_ps(ys, _mm512_maskz_compress_ps(above, y));
        return __builtin_popcount(above);
    } else {
        const __mmask8 above = _mm512_cmp_pd_mask(x, _mm512_set1_pd(bound), _CMP_NLE_UQ);
        _mm512_storeu_pd(xs, _mm512_maskz_compress_pd(above, x));
        _mm512_storeu_pd(ys, _mm512_maskz_compress_pd(above, y));
        return __builtin_popcount(above);
    }
#else
    int count = 0;
    for (int lane = 0; lane < kLanes<A>; ++lane) {
        count += store_if_above<A>(x[lane], y[lane], bound, xs + count, ys + count);
    }
    return count;
#endif
}

template <typename V>
INTEGRALROB_INLINE auto bits_of(V x) {
    typedef std::conditional_t<std::is_same_v<V, Lane<float>>, int32_t, int64_t> Bits
        __attribute__((vector_size(kVectorBytes)));
    return (Bits)x;
}
INTEGRALROB_INLINE float absolute(float x) { return std::fabs(x); }
INTEGRALROB_INLINE double absolute(double x) { return std::fabs(x); }
template <typename V>
INTEGRALROB_INLINE V absolute(V x) {
    return (V)(bits_of(x) & ~bits_of(-V{}));
}

// How far ahead the next row of a tensor is. Its entries are asked for while those of a row arrive, so that
// they are near when their turn comes; a long row would push them out again. Behind the last row nothing is
// read: an address that is not there is not fetched.
constexpr int64_t ahead(int64_t length) { return length <= (1 << 14) ? length : 0; }

// Of magnitudes.
INTEGRALROB_INLINE float with_sign(float size, float like) { return std::copysign(size, like); }
INTEGRALROB_INLINE double with_sign(double size, double like) { return std::copysign(size, like); }
template <typename V>
INTEGRALROB_INLINE V with_sign(V size, V like) {
    return (V)(bits_of(size) | (bits_of(like) & bits_of(-V{})));
}

// x · factor, rounded once.
INTEGRALROB_INLINE float times(float x, double factor) { return static_cast<float>(x * factor); }
INTEGRALROB_INLINE double times(double x, double factor) { return x * factor; }
INTEGRALROB_INLINE Lane<float> times(Lane<float> x, double factor) {
    typedef double Wide __attribute__((vector_size(2 * kVectorBytes)));
    return __builtin_convertvector(__builtin_convertvector(x, Wide) * factor, Lane<float>);
}
INTEGRALROB_INLINE Lane<double> times(Lane<double> x, double factor) { return x * factor; }

// body(u, a, b) for the vectors of a chunk that is filled up, two at a time: u is 0 and 1, for sums that do
// not wait for each other.
template <typename A, typename Body>
INTEGRALROB_INLINE void for_vectors(const A* a, const A* b, int64_t count, const Body& body) {
    for (int64_t k = 0; k < count; k += kStride<A>) {
        for (int u = 0; u < 2; ++u) {
            body(u, load<Lane<A>>(a + k + u * kLanes<A>), load<Lane<A>>(b + k + u * kLanes<A>));
        }
    }
}

// Vectors of float32 are summed in float64, of which they fill two; of float64 with compensation.
template <typename A>
class VectorSum;

template <>
class VectorSum<float> {
  public:
    INTEGRALROB_INLINE void add(Lane<float> x) {
        low_ += widen_half<0>(x);
        high_ += widen_half<1>(x);
    }
    INTEGRALROB_INLINE void add_square(Lane<float> x, double) {
        const Lane<double> low = widen_half<0>(x), high = widen_half<1>(x);
        low_ += low * low;
        high_ += high * high;
    }
    INTEGRALROB_INLINE void add(const VectorSum& other) {
        low_ += other.low_;
        high_ += other.high_;
    }
    INTEGRALROB_INLINE CompensatedSum<double> total() const {
        return {Vector<double, kLanes<double>>{low_ + high_}.sum(), 0.0};
    }

  private:
    Lane<double> low_{}, high_{};

    template <int Which>
    static INTEGRALROB_INLINE Lane<double> widen_half(Lane<float> x) {
        typedef double Wide __attribute__((vector_size(2 * kVectorBytes)));
        const Wide wide = __builtin_convertvector(x, Wide);
        return [&]<int... K>(std::integer_sequence<int, K...>) __attribute__((always_inline)) {
            return __builtin_shufflevector(wide, wide, (Which * kLanes<double> + K)...);
        }(std::make_integer_sequence<int, kLanes<double>>());
    }
};

template <>
class VectorSum<double> {
  public:
    INTEGRALROB_INLINE void add(Lane<double> x) { sum_.add(x); }
    INTEGRALROB_INLINE void add_square(Lane<double> x, double unit) {
        const Lane<double> scaled = x * unit;
        sum_.add(scaled * scaled);
    }
    INTEGRALROB_INLINE void add(const VectorSum& other) { sum_.add(other.sum_); }
    INTEGRALROB_INLINE CompensatedSum<double> total() const {
        CompensatedSum<double> total;
        for (int lane = 0; lane < kLanes<double>; ++lane) total.add({sum_.sum[lane], sum_.error[lane]});
        return total;
    }

  private:
    CompensatedSum<Lane<double>> sum_;
};

// Of terms in a buffer that has room for whole vectors.
template <typename A>
CompensatedSum<double> sum_of(A* terms, int64_t count) {
    const int64_t padded = round_up(count, kLanes<A>);
    std::fill(terms + count, terms + padded, A(0));
    VectorSum<A> sum;
    for (int64_t k = 0; k < padded; k += kLanes<A>) sum.add(load<Lane<A>>(terms + k));
    return sum.total();
}

// The lanes of a vector, put together by an associative op.
template <typename V, typename Op>
INTEGRALROB_INLINE auto fold(V x, const Op& op) {
    constexpr int kCount = sizeof(V) / sizeof(x[0]);
    std::decay_t<decltype(x[0])> lanes[kCount];
    std::memcpy(lanes, &x, sizeof(V));
    for (int width = kCount / 2; width > 0; width /= 2) {
        for (int lane = 0; lane < width; ++lane) lanes[lane] = op(lanes[lane], lanes[lane + width]);
    }
    return lanes[0];
}

// The larger one; the second one if the first is a NaN.
struct Larger {
    template <typename V>
    INTEGRALROB_INLINE V operator()(V x, V y) const {
        return x > y ? x : y;
    }
};

// Lanes that were counted as -1, fewer in all than an int32 holds.
template <typename Mask>
INTEGRALROB_INLINE double count_of(Mask minus) {
    return -static_cast<double>(fold(minus, [](auto x, auto y) { return x + y; }));
}

}  // namespace integralrob::INTEGRALROB_ISA_NAMESPACE
