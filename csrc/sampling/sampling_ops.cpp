// integralrob::sample_* for CPU tensors.
#include <algorithm>
#include <vector>

#include "sampling/sampling_glue.h"
#include "sampling/sampling_kernels.h"

namespace integralrob {
namespace {

template <typename T>
void run_1d(const Tensor& values, const Axis<arithmetic_t<T>>& axis, Tensor& out) {
    const int64_t inner = axis.inner;
    const int64_t rows = inner < kWideRow ? values.size(0) : values.size(0) * axis.points();
    const int64_t work = inner < kWideRow ? (axis.nodes + axis.points()) * inner : 5 * inner;
    parallel_rows(rows, work * static_cast<int64_t>(sizeof(T)), [&](int64_t begin, int64_t end) {
        INTEGRALROB_ON_ISA(sample_1d<T>, data<const T>(values), axis, data<T>(out), begin, end);
    });
}

template <typename T>
void run_2d(const Tensor& values, const Taps<arithmetic_t<T>>& taps0, const Axis<arithmetic_t<T>>& axis1,
            Tensor& out) {
    const int64_t work = (2 * axis1.nodes + axis1.points()) * axis1.inner * static_cast<int64_t>(sizeof(T));
    parallel_rows(taps0.rows(), work, [&](int64_t begin, int64_t end) {
        INTEGRALROB_ON_ISA(sample_2d<T>, data<const T>(values), taps0, axis1, data<T>(out), begin, end);
    });
}

// Adds partial sums over ranges of `outer` rows. The ranges depend on the sizes only, so the result does not
// depend on the number of threads. accumulate(begin, end, partial)
template <typename A, typename Accumulate>
void sum_over_rows(int64_t outer, int64_t work, int64_t size, A* out, const Accumulate& accumulate) {
    constexpr int64_t kMaxRanges = 16;
    const int64_t ranges = std::max<int64_t>(1, std::min(kMaxRanges, outer));
    std::vector<A> partial(ranges * size, A(0));
    parallel_rows(ranges, work * std::max<int64_t>(1, outer / ranges), [&](int64_t first, int64_t last) {
        for (int64_t range = first; range < last; ++range) {
            accumulate(outer * range / ranges, outer * (range + 1) / ranges, partial.data() + range * size);
        }
    });
    std::fill(out, out + size, A(0));
    for (int64_t range = 0; range < ranges; ++range) {
        for (int64_t k = 0; k < size; ++k) out[k] += partial[range * size + k];
    }
}

struct CpuKernels {
    template <typename... Bands>
    explicit CpuKernels(const Tensor& like, const Bands&... bands) {
        check(like.is_cpu(), "expected tensors on the CPU");
        (check_start(bands), ...);
    }

    // A kernel reads memory at start + tap, so nothing is taken on trust: 0 <= start <= nodes - T.
    static void check_start(const Band& band) {
        const int64_t* start = data<int64_t>(band.start);
        for (int64_t m = 0; m < band.points; ++m) {
            check(start[m] >= 0 && start[m] <= band.nodes - band.taps, band.name,
                  ": expected values from 0 to ", band.nodes - band.taps, " (", band.nodes,
                  " control values, ", band.taps, " taps), got ", start[m], " at position ", m);
        }
    }

    template <typename A>
    static Taps<A> forward(const Band& band) {
        return Taps<A>::of_band(data<int64_t>(band.start), data<A>(band.weight), band.points, band.taps);
    }
    // From the points to the nodes.
    template <typename A>
    static Taps<A> transposed(const Band& band) {
        return forward<A>(band).transposed(band.nodes);
    }

    template <typename T>
    void sample_1d(const Tensor& values, const Band& band, Tensor& out) const {
        using A = arithmetic_t<T>;
        run_1d<T>(values, Axis<A>(band.nodes, values.size(2), forward<A>(band)), out);
    }

    template <typename T>
    void sample_1d_adjoint(const Tensor& grad, const Band& band, Tensor& out) const {
        using A = arithmetic_t<T>;
        run_1d<T>(grad, Axis<A>(band.points, grad.size(2), transposed<A>(band)), out);
    }

    template <typename T>
    void sample_1d_weight_grad(const Tensor& grad, const Tensor& values, const Band& band,
                               Tensor& out) const {
        using A = arithmetic_t<T>;
        const int64_t outer = values.size(0), inner = values.size(2), size = band.points * band.taps;
        const int64_t work = (band.nodes + size) * inner * static_cast<int64_t>(sizeof(T));
        sum_over_rows(outer, work, size, data<A>(out), [&](int64_t begin, int64_t end, A* partial) {
            INTEGRALROB_ON_ISA(weight_grad_1d<T>, data<const T>(grad), data<const T>(values),
                               data<int64_t>(band.start), band.points, band.taps, band.nodes, inner, partial,
                               begin, end);
        });
    }

    template <typename T>
    void sample_2d(const Tensor& values, const Band& band0, const Band& band1, Tensor& out) const {
        using A = arithmetic_t<T>;
        run_2d<T>(values, forward<A>(band0), Axis<A>(band1.nodes, values.size(2), forward<A>(band1)), out);
    }

    template <typename T>
    void sample_2d_adjoint(const Tensor& grad, const Band& band0, const Band& band1, Tensor& out) const {
        using A = arithmetic_t<T>;
        run_2d<T>(grad, transposed<A>(band0), Axis<A>(band1.points, grad.size(2), transposed<A>(band1)), out);
    }

    template <typename T>
    void sample_2d_weight0_grad(const Tensor& grad, const Tensor& values, const Band& band0,
                                const Band& band1, Tensor& out) const {
        using A = arithmetic_t<T>;
        const int64_t inner = values.size(2);
        const Axis<A> axis1(band1.points, inner, transposed<A>(band1));
        const int64_t work =
            (band1.points + band0.taps * band1.nodes) * inner * static_cast<int64_t>(sizeof(T));
        parallel_rows(band0.points, work, [&](int64_t begin, int64_t end) {
            INTEGRALROB_ON_ISA(weight0_grad_2d<T>, data<const T>(grad), data<const T>(values),
                               data<int64_t>(band0.start), band0.taps, axis1, data<A>(out), begin, end);
        });
    }

    template <typename T>
    void sample_2d_weight1_grad(const Tensor& grad, const Tensor& values, const Band& band0,
                                const Band& band1, Tensor& out) const {
        using A = arithmetic_t<T>;
        const int64_t inner = values.size(2), size = band1.points * band1.taps;
        const Taps<A> taps0 = forward<A>(band0);
        const int64_t work = (2 * band1.nodes + size) * inner * static_cast<int64_t>(sizeof(T));
        sum_over_rows(band0.points, work, size, data<A>(out), [&](int64_t begin, int64_t end, A* partial) {
            INTEGRALROB_ON_ISA(weight1_grad_2d<T>, data<const T>(grad), data<const T>(values), taps0,
                               data<int64_t>(band1.start), band1.points, band1.taps, band1.nodes, inner,
                               partial, begin, end);
        });
    }
};

STABLE_TORCH_LIBRARY_IMPL(integralrob, CPU, m) { SamplingOps<CpuKernels>::implement(m); }

}  // namespace
}  // namespace integralrob
