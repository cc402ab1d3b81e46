// integralrob::sample_* for CPU tensors.
#include <algorithm>
#include <vector>

#include "common/glue.h"
#include "sampling/sampling_kernels.h"

namespace integralrob {
namespace {

// A kernel reads memory at start + tap, so nothing is taken on trust here: start [M], weight [M, T], 0 <=
// start <= size - T.
void check_start(const char* name, const Tensor& start, int64_t taps, int64_t size) {
    check(start.scalar_type() == ScalarType::Long && start.dim() == 1 && start.is_cpu(), name,
          ": expected an int64 CPU tensor of shape [M]");
    const int64_t* first = data<int64_t>(start);
    for (int64_t m = 0; m < start.size(0); ++m) {
        check(first[m] >= 0 && first[m] <= size - taps, name, ": expected values from 0 to ", size - taps,
              " (", size, " control values, ", taps, " taps), got ", first[m], " at position ", m);
    }
}

struct Band {
    Tensor start, weight;

    Band(const char* name, const Tensor& start_, const Tensor& weight_, ScalarType dtype, int64_t size)
        : start(as_contiguous(start_)), weight(as_contiguous(weight_)) {
        check(weight.scalar_type() == arithmetic_dtype(dtype) && weight.dim() == 2 && weight.is_cpu() &&
                  start.dim() == 1 && weight.size(0) == start.size(0),
              name, ": expected a CPU weight of shape [M, T], float64 for float64 values, else float32");
        check_start(name, start, weight.size(1), size);
    }
    int64_t points() const { return start.size(0); }
    int64_t taps() const { return weight.size(1); }

    template <typename A>
    Taps<A> forward() const {
        return Taps<A>::of_band(data<int64_t>(start), data<A>(weight), points(), taps());
    }
    // points() inputs, `size` outputs
    template <typename A>
    Taps<A> transposed(int64_t size) const {
        return forward<A>().transposed(size);
    }
};

void check_3d(const char* name, const Tensor& tensor) {
    check(tensor.dim() == 3 && tensor.is_cpu(), name, ": expected a CPU tensor with three dimensions");
}

void check_like(const char* name, const Tensor& tensor, ScalarType dtype, int64_t size0, int64_t size1,
                int64_t size2) {
    check_3d(name, tensor);
    check(tensor.scalar_type() == dtype && tensor.size(0) == size0 && tensor.size(1) == size1 &&
              tensor.size(2) == size2,
          name, ": expected the shape [", size0, ", ", size1, ", ", size2,
          "] and the dtype of the other factor");
}

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

Tensor sample_1d_op(const Tensor& values_, const Tensor& start, const Tensor& weight) {
    check_3d("values", values_);
    const Tensor values = as_contiguous(values_);
    const int64_t nodes = values.size(1);
    const Band band("start", start, weight, values.scalar_type(), nodes);
    Tensor out = new_result(values, {values.size(0), band.points(), values.size(2)});
    for_dtype("values", values.scalar_type(), [&]<typename T>() {
        using A = arithmetic_t<T>;
        run_1d<T>(values, Axis<A>(nodes, values.size(2), band.forward<A>()), out);
    });
    return out;
}

Tensor sample_1d_adjoint_op(const Tensor& grad_, const Tensor& start, const Tensor& weight, int64_t size) {
    check_3d("grad", grad_);
    const Tensor grad = as_contiguous(grad_);
    const Band band("start", start, weight, grad.scalar_type(), size);
    check(grad.size(1) == band.points(), "grad: expected ", band.points(), " samples, got ", grad.size(1));
    Tensor out = new_result(grad, {grad.size(0), size, grad.size(2)});
    for_dtype("grad", grad.scalar_type(), [&]<typename T>() {
        using A = arithmetic_t<T>;
        run_1d<T>(grad, Axis<A>(band.points(), grad.size(2), band.transposed<A>(size)), out);
    });
    return out;
}

Tensor sample_1d_weight_grad_op(const Tensor& grad_, const Tensor& values_, const Tensor& start_,
                                int64_t taps) {
    check_3d("values", values_);
    const Tensor grad = as_contiguous(grad_), values = as_contiguous(values_), start = as_contiguous(start_);
    check(taps >= 1, "taps: expected at least 1, got ", taps);
    const int64_t outer = values.size(0), nodes = values.size(1), inner = values.size(2);
    check_start("start", start, taps, nodes);
    const int64_t points = start.size(0);
    check_like("grad", grad, values.scalar_type(), outer, points, inner);
    Tensor out = torch::stable::new_empty(grad, {points, taps}, arithmetic_dtype(grad.scalar_type()));
    for_dtype("grad", grad.scalar_type(), [&]<typename T>() {
        using A = arithmetic_t<T>;
        const int64_t work = (nodes + points * taps) * inner * static_cast<int64_t>(sizeof(T));
        sum_over_rows(outer, work, points * taps, data<A>(out), [&](int64_t begin, int64_t end, A* partial) {
            INTEGRALROB_ON_ISA(weight_grad_1d<T>, data<const T>(grad), data<const T>(values),
                               data<int64_t>(start), points, taps, nodes, inner, partial, begin, end);
        });
    });
    return out;
}

Tensor sample_2d_op(const Tensor& values_, const Tensor& start0, const Tensor& weight0, const Tensor& start1,
                    const Tensor& weight1) {
    check_3d("values", values_);
    const Tensor values = as_contiguous(values_);
    const int64_t nodes0 = values.size(0), nodes1 = values.size(1), inner = values.size(2);
    const Band band0("start0", start0, weight0, values.scalar_type(), nodes0);
    const Band band1("start1", start1, weight1, values.scalar_type(), nodes1);
    Tensor out = new_result(values, {band0.points(), band1.points(), inner});
    for_dtype("values", values.scalar_type(), [&]<typename T>() {
        using A = arithmetic_t<T>;
        run_2d<T>(values, band0.forward<A>(), Axis<A>(nodes1, inner, band1.forward<A>()), out);
    });
    return out;
}

Tensor sample_2d_adjoint_op(const Tensor& grad_, const Tensor& start0, const Tensor& weight0,
                            const Tensor& start1, const Tensor& weight1, int64_t size0, int64_t size1) {
    check_3d("grad", grad_);
    const Tensor grad = as_contiguous(grad_);
    const Band band0("start0", start0, weight0, grad.scalar_type(), size0);
    const Band band1("start1", start1, weight1, grad.scalar_type(), size1);
    check(grad.size(0) == band0.points() && grad.size(1) == band1.points(), "grad: expected ", band0.points(),
          " by ", band1.points(), " samples, got ", grad.size(0), " by ", grad.size(1));
    const int64_t inner = grad.size(2);
    Tensor out = new_result(grad, {size0, size1, inner});
    for_dtype("grad", grad.scalar_type(), [&]<typename T>() {
        using A = arithmetic_t<T>;
        run_2d<T>(grad, band0.transposed<A>(size0),
                  Axis<A>(band1.points(), inner, band1.transposed<A>(size1)), out);
    });
    return out;
}

Tensor sample_2d_weight0_grad_op(const Tensor& grad_, const Tensor& values_, const Tensor& start0_,
                                 const Tensor& start1, const Tensor& weight1, int64_t taps0) {
    check_3d("values", values_);
    const Tensor grad = as_contiguous(grad_), values = as_contiguous(values_),
                 start0 = as_contiguous(start0_);
    check(taps0 >= 1, "taps0: expected at least 1, got ", taps0);
    const int64_t nodes1 = values.size(1), inner = values.size(2);
    check_start("start0", start0, taps0, values.size(0));
    const Band band1("start1", start1, weight1, values.scalar_type(), nodes1);
    const int64_t points0 = start0.size(0);
    check_like("grad", grad, values.scalar_type(), points0, band1.points(), inner);
    Tensor out = torch::stable::new_empty(grad, {points0, taps0}, arithmetic_dtype(grad.scalar_type()));
    for_dtype("grad", grad.scalar_type(), [&]<typename T>() {
        using A = arithmetic_t<T>;
        const Axis<A> transposed(band1.points(), inner, band1.transposed<A>(nodes1));
        const int64_t work = (band1.points() + taps0 * nodes1) * inner * static_cast<int64_t>(sizeof(T));
        parallel_rows(points0, work, [&](int64_t begin, int64_t end) {
            INTEGRALROB_ON_ISA(weight0_grad_2d<T>, data<const T>(grad), data<const T>(values),
                               data<int64_t>(start0), taps0, transposed, data<A>(out), begin, end);
        });
    });
    return out;
}

Tensor sample_2d_weight1_grad_op(const Tensor& grad_, const Tensor& values_, const Tensor& start0,
                                 const Tensor& weight0, const Tensor& start1_, int64_t taps1) {
    check_3d("values", values_);
    const Tensor grad = as_contiguous(grad_), values = as_contiguous(values_),
                 start1 = as_contiguous(start1_);
    check(taps1 >= 1, "taps1: expected at least 1, got ", taps1);
    const int64_t nodes0 = values.size(0), nodes1 = values.size(1), inner = values.size(2);
    const Band band0("start0", start0, weight0, values.scalar_type(), nodes0);
    check_start("start1", start1, taps1, nodes1);
    const int64_t points0 = band0.points(), points1 = start1.size(0);
    check_like("grad", grad, values.scalar_type(), points0, points1, inner);
    Tensor out = torch::stable::new_empty(grad, {points1, taps1}, arithmetic_dtype(grad.scalar_type()));
    for_dtype("grad", grad.scalar_type(), [&]<typename T>() {
        using A = arithmetic_t<T>;
        const Taps<A> forward0 = band0.forward<A>();
        const int64_t work = (2 * nodes1 + points1 * taps1) * inner * static_cast<int64_t>(sizeof(T));
        sum_over_rows(
            points0, work, points1 * taps1, data<A>(out), [&](int64_t begin, int64_t end, A* partial) {
                INTEGRALROB_ON_ISA(weight1_grad_2d<T>, data<const T>(grad), data<const T>(values), forward0,
                                   data<int64_t>(start1), points1, taps1, nodes1, inner, partial, begin, end);
            });
    });
    return out;
}

STABLE_TORCH_LIBRARY_IMPL(integralrob, CPU, m) {
    m.impl("sample_1d", TORCH_BOX(&sample_1d_op));
    m.impl("sample_1d_adjoint", TORCH_BOX(&sample_1d_adjoint_op));
    m.impl("sample_1d_weight_grad", TORCH_BOX(&sample_1d_weight_grad_op));
    m.impl("sample_2d", TORCH_BOX(&sample_2d_op));
    m.impl("sample_2d_adjoint", TORCH_BOX(&sample_2d_adjoint_op));
    m.impl("sample_2d_weight0_grad", TORCH_BOX(&sample_2d_weight0_grad_op));
    m.impl("sample_2d_weight1_grad", TORCH_BOX(&sample_2d_weight1_grad_op));
}

}  // namespace
}  // namespace integralrob
