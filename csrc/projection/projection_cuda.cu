// l-infinity projection and step on CUDA: one pass over memory.
#include "common/launch.cuh"
#include "common/tuning.h"
#include "common/vector.cuh"
#include "projection/projection_cuda.h"
#include "projection/projection_math.h"
#include "projection/with_momentum.cuh"

namespace integralrob::cuda {
namespace {

// A formula gives an entry of the result from entries of the inputs and the parameters of their row.
template <typename A>
struct ProjectOnBall {
    static constexpr int kInputs = 1;  // delta
    static constexpr const char* kPurpose = "project_linf";
    PerRow<A> eps;
    __device__ A row(int64_t r) const { return eps[r]; }
    __device__ A operator()(const A* in, A e) const { return nan_min(nan_max(in[0], -e), e); }
};

template <typename A>
struct ProjectOnBallInBox {
    static constexpr int kInputs = 2;  // delta, center
    static constexpr const char* kPurpose = "project_linf";
    PerRow<A> eps;
    A lo, hi;
    __device__ A row(int64_t r) const { return eps[r]; }
    __device__ A operator()(const A* in, A e) const {
        return integralrob::project_linf(in[0], e, in[1], lo, hi);
    }
};

template <typename T>
struct LinfStep {
    using A = arithmetic_t<T>;
    static constexpr int kInputs = 3;  // x_adv, grad, x
    static constexpr const char* kPurpose = "linf_step";
    struct Row {
        A eps, size;
    };
    PerRow<A> eps, size;
    A lo, hi;
    __device__ Row row(int64_t r) const { return {eps[r], size[r]}; }
    __device__ A operator()(const A* in, Row r) const {
        return clip_linf_to<T>(along_sign(in[0], in[1], r.size), in[2], r.eps, lo, hi);
    }
};

template <typename T>
struct LinfStepWithMomentum {
    using A = arithmetic_t<T>;
    static constexpr int kInputs = 4;  // x_adv, grad, x, previous
    static constexpr const char* kPurpose = "linf_step";
    using Row = typename LinfStep<T>::Row;
    LinfStep<T> first;
    A momentum;
    __device__ Row row(int64_t r) const { return first.row(r); }
    __device__ A operator()(const A* in, Row r) const {
        const A z = clip_linf(along_sign(in[0], in[1], r.size), in[2], r.eps, first.lo, first.hi);
        const A v = in[0] + cuda::with_momentum(z, in[0], in[3], momentum);
        return clip_linf_to<T>(v, in[2], r.eps, first.lo, first.hi);
    }
};

template <typename T, typename Formula>
struct Inputs {
    const T* from[Formula::kInputs];

    template <int Lanes>
    struct Entries {
        Vector<T, Lanes> of[Formula::kInputs];
    };
    template <int Lanes>
    __device__ __forceinline__ Entries<Lanes> load(int64_t k) const {
        Entries<Lanes> entries;
#pragma unroll
        for (int i = 0; i < Formula::kInputs; ++i) entries.of[i] = cuda::load<T, Lanes>(from[i] + k);
        return entries;
    }
};

// The results k, k + 1, ... of the flattened tensor.
template <int Lanes, typename T, typename Formula>
__device__ __forceinline__ Vector<T, Lanes> apply(const Formula& formula, const Vector<T, Lanes>* in,
                                                  int64_t k, int64_t length) {
    Vector<T, Lanes> result;
    const auto set = [&](int lane, const auto& parameters) {
        arithmetic_t<T> x[Formula::kInputs];
#pragma unroll
        for (int i = 0; i < Formula::kInputs; ++i) x[i] = widen(in[i].lane[lane]);
        result.lane[lane] = narrow<T>(formula(x, parameters));
    };
    int64_t row = k / length;
    int64_t rest = (row + 1) * length - k;  // of the row
    auto parameters = formula.row(row);
    if (Lanes == 1 || rest >= Lanes) {
#pragma unroll
        for (int lane = 0; lane < Lanes; ++lane) set(lane, parameters);
    } else {
#pragma unroll
        for (int lane = 0; lane < Lanes; ++lane, --rest) {
            if (rest == 0) {
                parameters = formula.row(++row);
                rest = length;
            }
            set(lane, parameters);
        }
    }
    return result;
}

// A thread has `Vectors` vectors of each input in flight before it uses any. Results are stored through the
// L2 cache: what is projected is what the model reads next.
template <int Lanes, int Vectors, typename T, typename Formula>
__global__ void __launch_bounds__(kMapThreads, kMapResident / kMapThreads)
    map_rows(Inputs<T, Formula> in, Formula formula, int64_t count, int64_t length, T* out) {
    const int64_t vectors = count / Lanes;
    constexpr int kTile = kMapThreads * Vectors;
    for (int64_t tile = blockIdx.x; tile * kTile < vectors; tile += gridDim.x) {
        const int64_t first = tile * kTile + threadIdx.x;
        typename Inputs<T, Formula>::template Entries<Lanes> entries[Vectors];
#pragma unroll
        for (int v = 0; v < Vectors; ++v) {
            const int64_t vector = first + v * kMapThreads;
            if (vector < vectors) entries[v] = in.template load<Lanes>(vector * Lanes);
        }
#pragma unroll
        for (int v = 0; v < Vectors; ++v) {
            const int64_t k = (first + v * kMapThreads) * Lanes;
            if (k < vectors * Lanes) store(out + k, apply<Lanes, T>(formula, entries[v].of, k, length));
        }
    }
    if (blockIdx.x == 0 && threadIdx.x < count % Lanes) {  // the elements that do not fill a vector
        const int64_t k = vectors * Lanes + threadIdx.x;
        store(out + k, apply<1, T>(formula, in.template load<1>(k).of, k, length));
    }
}

template <int Lanes, typename T, typename Formula>
void launch_map(const Inputs<T, Formula>& in, const Formula& formula, int64_t count, int64_t length, T* out,
                cudaStream_t stream) {
    constexpr int kVectors = ceil_div(kMapVectors, Formula::kInputs);
    const int64_t blocks = ceil_div<int64_t>(count, kMapThreads * kVectors * Lanes);
    launch(map_rows<Lanes, kVectors, T, Formula>,
           {.blocks = blocks, .threads = kMapThreads, .purpose = Formula::kPurpose}, stream, in, formula,
           count, length, out);
}

// `uniform`: all rows have the same parameters, so that the tensor is as good as one row.
template <typename T, typename Formula>
void map(const Inputs<T, Formula>& in, const Formula& formula, bool uniform, int64_t rows, int64_t length,
         T* out, cudaStream_t stream) {
    const int64_t count = rows * length;
    bool aligned = aligned16(out);
    for (const T* from : in.from) aligned = aligned && aligned16(from);
    (aligned ? launch_map<kLanes<T>, T, Formula>
             : launch_map<1, T, Formula>)(in, formula, count, uniform ? count : length, out, stream);
}

}  // namespace

template <typename T>
void project_linf(const T* delta, const T* center, PerRow<arithmetic_t<T>> eps, arithmetic_t<T> lo,
                  arithmetic_t<T> hi, int64_t rows, int64_t length, T* out, cudaStream_t stream) {
    using A = arithmetic_t<T>;
    const bool uniform = eps.stride == 0;
    if (center == nullptr) {
        map<T, ProjectOnBall<A>>({{delta}}, {eps}, uniform, rows, length, out, stream);
    } else {
        map<T, ProjectOnBallInBox<A>>({{delta, center}}, {eps, lo, hi}, uniform, rows, length, out, stream);
    }
}

template <typename T>
void linf_step(const Step<T>& s, cudaStream_t stream) {
    const bool uniform = s.eps.stride == 0 && s.size.stride == 0;
    const LinfStep<T> step{s.eps, s.size, s.lo, s.hi};
    if (s.previous == nullptr) {
        map<T, LinfStep<T>>({{s.x_adv, s.grad, s.x}}, step, uniform, s.rows, s.length, s.out, stream);
    } else {
        map<T, LinfStepWithMomentum<T>>({{s.x_adv, s.grad, s.x, s.previous}}, {step, s.momentum}, uniform,
                                        s.rows, s.length, s.out, stream);
    }
}

#define INTEGRALROB_INSTANTIATE(T)                                                              \
    template void project_linf<T>(const T*, const T*, PerRow<arithmetic_t<T>>, arithmetic_t<T>, \
                                  arithmetic_t<T>, int64_t, int64_t, T*, cudaStream_t);         \
    template void linf_step<T>(const Step<T>&, cudaStream_t);
INTEGRALROB_INSTANTIATE(float)
INTEGRALROB_INSTANTIATE(double)
INTEGRALROB_INSTANTIATE(Half)
INTEGRALROB_INSTANTIATE(BFloat16)

}  // namespace integralrob::cuda
