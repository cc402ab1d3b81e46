// The sampling family as ops on tensors, the same for every device.
#pragma once

#include "common/glue.h"

namespace integralrob {

// One axis: start [M], weight [M, T] (or none: only the number of taps), over `nodes` control values.
struct Band {
    const char* name;  // of start
    Tensor start, weight;
    int64_t points, taps, nodes;

    // `like`: a factor of the same form.
    Band(const char* name_, const Tensor& start_, const Tensor& weight_, const Tensor& like, int64_t nodes_)
        : Band(name_, start_, weight_.dim() == 2 ? weight_.size(1) : 0, like, nodes_) {
        weight = as_contiguous(weight_);
        check(weight.scalar_type() == arithmetic_dtype(like.scalar_type()) && weight.dim() == 2 &&
                  same_device(weight, like) && weight.size(0) == points,
              name,
              ": expected a weight of shape [M, T] on the device of the values, float64 for float64 values, "
              "else float32");
    }

    Band(const char* name_, const Tensor& start_, int64_t taps_, const Tensor& like, int64_t nodes_)
        : name(name_), start(as_contiguous(start_)), weight(start), taps(taps_), nodes(nodes_) {
        check(start.scalar_type() == ScalarType::Long && start.dim() == 1 && same_device(start, like), name,
              ": expected an int64 tensor of shape [M] on the device of the values");
        points = start.size(0);
        check(nodes >= 0, name, ": expected a number of control values of at least 0, got ", nodes);
        check(taps >= 1 && (taps <= nodes || points == 0), name, ": expected 1 to ", nodes, " taps for ",
              nodes, " control values, got ", taps);
    }
};

// Kernels(tensor, bands...) are those of the tensor's device. They take contiguous tensors and fill one:
//   sample_1d<T>(values, band, out)             sample_1d_adjoint<T>(grad, band, out)
//   sample_1d_weight_grad<T>(grad, values, band, out)
//   sample_2d<T>(values, band0, band1, out)     sample_2d_adjoint<T>(grad, band0, band1, out)
//   sample_2d_weight0_grad<T>(grad, values, band0 without weight, band1, out)
//   sample_2d_weight1_grad<T>(grad, values, band0, band1 without weight, out)
template <typename Kernels>
class SamplingOps {
  public:
    static void implement(torch::stable::detail::StableLibrary& library) {
        library.impl("sample_1d", TORCH_BOX(&SamplingOps::sample_1d));
        library.impl("sample_1d_adjoint", TORCH_BOX(&SamplingOps::sample_1d_adjoint));
        library.impl("sample_1d_weight_grad", TORCH_BOX(&SamplingOps::sample_1d_weight_grad));
        library.impl("sample_2d", TORCH_BOX(&SamplingOps::sample_2d));
        library.impl("sample_2d_adjoint", TORCH_BOX(&SamplingOps::sample_2d_adjoint));
        library.impl("sample_2d_weight0_grad", TORCH_BOX(&SamplingOps::sample_2d_weight0_grad));
        library.impl("sample_2d_weight1_grad", TORCH_BOX(&SamplingOps::sample_2d_weight1_grad));
    }

  private:
    static Tensor check_3d(const char* name, const Tensor& tensor) {
        check(tensor.dim() == 3, name, ": expected a tensor with three dimensions");
        return as_contiguous(tensor);
    }

    static Tensor check_grad(const Tensor& grad, int64_t size0, int64_t size1, int64_t size2,
                             const Tensor& like) {
        check(grad.dim() == 3 && grad.scalar_type() == like.scalar_type() && same_device(grad, like) &&
                  grad.size(0) == size0 && grad.size(1) == size1 && grad.size(2) == size2,
              "grad: expected the shape [", size0, ", ", size1, ", ", size2,
              "], and the dtype and device of the other factor");
        return as_contiguous(grad);
    }

    static Tensor new_weight(const Tensor& like, const Band& band) {
        return torch::stable::new_empty(like, {band.points, band.taps}, arithmetic_dtype(like.scalar_type()));
    }

    static Tensor sample_1d(const Tensor& values_, const Tensor& start, const Tensor& weight) {
        const Tensor values = check_3d("values", values_);
        const Band band("start", start, weight, values, values.size(1));
        const Kernels kernels(values, band);
        Tensor out = new_result(values, {values.size(0), band.points, values.size(2)});
        for_dtype("values", values.scalar_type(),
                  [&]<typename T>() { kernels.template sample_1d<T>(values, band, out); });
        return out;
    }

    static Tensor sample_1d_adjoint(const Tensor& grad_, const Tensor& start, const Tensor& weight,
                                    int64_t size) {
        const Tensor grad = check_3d("grad", grad_);
        const Band band("start", start, weight, grad, size);
        check(grad.size(1) == band.points, "grad: expected ", band.points, " samples, got ", grad.size(1));
        const Kernels kernels(grad, band);
        Tensor out = new_result(grad, {grad.size(0), size, grad.size(2)});
        for_dtype("grad", grad.scalar_type(),
                  [&]<typename T>() { kernels.template sample_1d_adjoint<T>(grad, band, out); });
        return out;
    }

    static Tensor sample_1d_weight_grad(const Tensor& grad_, const Tensor& values_, const Tensor& start,
                                        int64_t taps) {
        const Tensor values = check_3d("values", values_);
        const Band band("start", start, taps, values, values.size(1));
        const Tensor grad = check_grad(grad_, values.size(0), band.points, values.size(2), values);
        const Kernels kernels(values, band);
        Tensor out = new_weight(values, band);
        for_dtype("grad", grad.scalar_type(),
                  [&]<typename T>() { kernels.template sample_1d_weight_grad<T>(grad, values, band, out); });
        return out;
    }

    static Tensor sample_2d(const Tensor& values_, const Tensor& start0, const Tensor& weight0,
                            const Tensor& start1, const Tensor& weight1) {
        const Tensor values = check_3d("values", values_);
        const Band band0("start0", start0, weight0, values, values.size(0));
        const Band band1("start1", start1, weight1, values, values.size(1));
        const Kernels kernels(values, band0, band1);
        Tensor out = new_result(values, {band0.points, band1.points, values.size(2)});
        for_dtype("values", values.scalar_type(),
                  [&]<typename T>() { kernels.template sample_2d<T>(values, band0, band1, out); });
        return out;
    }

    static Tensor sample_2d_adjoint(const Tensor& grad_, const Tensor& start0, const Tensor& weight0,
                                    const Tensor& start1, const Tensor& weight1, int64_t size0,
                                    int64_t size1) {
        const Tensor grad = check_3d("grad", grad_);
        const Band band0("start0", start0, weight0, grad, size0);
        const Band band1("start1", start1, weight1, grad, size1);
        check(grad.size(0) == band0.points && grad.size(1) == band1.points, "grad: expected ", band0.points,
              " by ", band1.points, " samples, got ", grad.size(0), " by ", grad.size(1));
        const Kernels kernels(grad, band0, band1);
        Tensor out = new_result(grad, {size0, size1, grad.size(2)});
        for_dtype("grad", grad.scalar_type(),
                  [&]<typename T>() { kernels.template sample_2d_adjoint<T>(grad, band0, band1, out); });
        return out;
    }

    static Tensor sample_2d_weight0_grad(const Tensor& grad_, const Tensor& values_, const Tensor& start0,
                                         const Tensor& start1, const Tensor& weight1, int64_t taps0) {
        const Tensor values = check_3d("values", values_);
        const Band band0("start0", start0, taps0, values, values.size(0));
        const Band band1("start1", start1, weight1, values, values.size(1));
        const Tensor grad = check_grad(grad_, band0.points, band1.points, values.size(2), values);
        const Kernels kernels(values, band0, band1);
        Tensor out = new_weight(values, band0);
        for_dtype("grad", grad.scalar_type(), [&]<typename T>() {
            kernels.template sample_2d_weight0_grad<T>(grad, values, band0, band1, out);
        });
        return out;
    }

    static Tensor sample_2d_weight1_grad(const Tensor& grad_, const Tensor& values_, const Tensor& start0,
                                         const Tensor& weight0, const Tensor& start1, int64_t taps1) {
        const Tensor values = check_3d("values", values_);
        const Band band0("start0", start0, weight0, values, values.size(0));
        const Band band1("start1", start1, taps1, values, values.size(1));
        const Tensor grad = check_grad(grad_, band0.points, band1.points, values.size(2), values);
        const Kernels kernels(values, band0, band1);
        Tensor out = new_weight(values, band1);
        for_dtype("grad", grad.scalar_type(), [&]<typename T>() {
            kernels.template sample_2d_weight1_grad<T>(grad, values, band0, band1, out);
        });
        return out;
    }
};

}  // namespace integralrob
