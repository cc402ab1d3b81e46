// integralrob::sample_* for CUDA tensors.
#include "common/cuda_glue.h"
#include "sampling/sampling_cuda.h"
#include "sampling/sampling_glue.h"

namespace integralrob {
namespace {

// The starts of a band stay on the GPU, unread: kernels make NaN of what one out of range would have yielded.
class CudaKernels {
  public:
    template <typename... Bands>
    explicit CudaKernels(const Tensor& like, const Bands&...) : device_(like) {}

    template <typename T>
    void sample_1d(const Tensor& values, const Band& band, Tensor& out) const {
        cuda::sample_1d<T>(data<const T>(values), axis<arithmetic_t<T>>(band), values.size(0), values.size(2),
                           data<T>(out), stream());
    }

    template <typename T>
    void sample_1d_adjoint(const Tensor& grad, const Band& band, Tensor& out) const {
        const Transposed<arithmetic_t<T>> transposed(band, stream());
        cuda::sample_1d<T>(data<const T>(grad), transposed.axis, grad.size(0), grad.size(2), data<T>(out),
                           stream());
    }

    template <typename T>
    void sample_1d_weight_grad(const Tensor& grad, const Tensor& values, const Band& band,
                               Tensor& out) const {
        weight1_grad<T>(grad, values, cuda::identity<arithmetic_t<T>>(values.size(0)), band, out);
    }

    template <typename T>
    void sample_2d(const Tensor& values, const Band& band0, const Band& band1, Tensor& out) const {
        using A = arithmetic_t<T>;
        cuda::sample_2d<T>(data<const T>(values), axis<A>(band0), axis<A>(band1), values.size(2),
                           data<T>(out), stream());
    }

    template <typename T>
    void sample_2d_adjoint(const Tensor& grad, const Band& band0, const Band& band1, Tensor& out) const {
        using A = arithmetic_t<T>;
        const Transposed<A> transposed0(band0, stream()), transposed1(band1, stream());
        cuda::sample_2d<T>(data<const T>(grad), transposed0.axis, transposed1.axis, grad.size(2),
                           data<T>(out), stream());
    }

    template <typename T>
    void sample_2d_weight0_grad(const Tensor& grad, const Tensor& values, const Band& band0,
                                const Band& band1, Tensor& out) const {
        using A = arithmetic_t<T>;
        const int64_t inner = values.size(2);
        const Transposed<A> transposed1(band1, stream());
        const cuda::Parts parts = cuda::weight0_grad_parts(band0.points, band0.taps, band1.nodes, inner);
        Tensor partial = new_partial(out, parts);
        cuda::weight0_grad_2d<T>(data<const T>(grad), data<const T>(values), axis<A>(band0), transposed1.axis,
                                 inner, parts, data<A>(partial), data<A>(out), stream());
    }

    template <typename T>
    void sample_2d_weight1_grad(const Tensor& grad, const Tensor& values, const Band& band0,
                                const Band& band1, Tensor& out) const {
        const Transposed<arithmetic_t<T>> transposed0(band0, stream());
        weight1_grad<T>(grad, values, transposed0.axis, band1, out);
    }

  private:
    template <typename A>
    static cuda::Axis<A> axis(const Band& band) {
        // A band without weights has none to read: only its starts count.
        const bool weighted = band.weight.dim() == 2;
        return {band.points, band.nodes, band.taps, data<int64_t>(band.start),
                weighted ? data<A>(band.weight) : nullptr};
    }

    // A band's transpose, and the memory of its tables.
    template <typename A>
    struct Transposed {
        Tensor offset, index, weight;
        cuda::Axis<A> axis;

        Transposed(const Band& band, cudaStream_t stream)
            : offset(torch::stable::new_empty(band.start, {band.nodes + 1})),
              index(torch::stable::new_empty(band.start, {band.points * band.taps})),
              weight(torch::stable::new_empty(band.weight, {band.points * band.taps})),
              axis(cuda::transpose(CudaKernels::axis<A>(band), data<int64_t>(offset), data<int64_t>(index),
                                   data<A>(weight), stream)) {}
    };

    static Tensor new_partial(const Tensor& out, const cuda::Parts& parts) {
        return torch::stable::new_empty(out, {parts.parts > 1 ? parts.parts * out.numel() : 0});
    }

    template <typename T>
    void weight1_grad(const Tensor& grad, const Tensor& values,
                      const cuda::Axis<arithmetic_t<T>>& transposed0, const Band& band, Tensor& out) const {
        using A = arithmetic_t<T>;
        const int64_t inner = values.size(2);
        const cuda::Parts parts = cuda::weight1_grad_parts(values.size(0), band.points, band.taps, inner);
        Tensor partial = new_partial(out, parts);
        cuda::weight1_grad<T>(data<const T>(grad), data<const T>(values), transposed0, axis<A>(band), inner,
                              parts, data<A>(partial), data<A>(out), stream());
    }

    cudaStream_t stream() const { return device_.stream(); }

    cuda::OnDevice device_;
};

STABLE_TORCH_LIBRARY_IMPL(INTEGRALROB_CUDA_NAMESPACE, INTEGRALROB_CUDA_KEY, m) {
    SamplingOps<CudaKernels>::implement(m);
}

}  // namespace
}  // namespace integralrob
