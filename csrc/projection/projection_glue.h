// project_linf and linf_step as ops on tensors, the same for every device.
#pragma once

#include <optional>

#include "common/glue.h"
#include "projection/per_row.h"

namespace integralrob {

// Kernels are those of a device, made for a batch and its device:
//   project_linf<T>(delta, center or null, eps, lo, hi, rows, length, out)
//   linf_step<T>(x_adv, grad, x, eps, step, lo, hi, rows, length, out), where out may be x_adv
// on contiguous [rows, length].
template <typename Kernels>
class LinfOps {
  public:
    static void implement(torch::stable::detail::StableLibrary& library) {
        library.impl("project_linf", TORCH_BOX(&LinfOps::project));
        library.impl("linf_step", TORCH_BOX(&LinfOps::step<double>));
        library.impl("linf_step.per_sample", TORCH_BOX(&LinfOps::step<const Tensor&>));
        library.impl("linf_step_", TORCH_BOX(&LinfOps::step_in_place<double>));
        library.impl("linf_step_.per_sample", TORCH_BOX(&LinfOps::step_in_place<const Tensor&>));
    }

  private:
    struct Shape {
        int64_t rows, length;

        explicit Shape(const Tensor& batch) {
            check(batch.dim() >= 1, "the batch: expected shape [B, ...]");
            rows = batch.size(0);
            length = rows == 0 ? 0 : batch.numel() / rows;
        }
    };

    static void check_like(const char* name, const Tensor& tensor, const Tensor& batch) {
        check(same_device(tensor, batch) && tensor.scalar_type() == batch.scalar_type() &&
                  tensor.numel() == batch.numel(),
              name, ": expected the device, dtype and shape of the batch");
    }

    template <typename A>
    static PerRow<A> per_row(const char*, double value, const Tensor&) {
        return {nullptr, 0, static_cast<A>(value)};
    }
    template <typename A>
    static PerRow<A> per_row(const char* name, const Tensor& value, const Tensor& batch) {
        check(same_device(value, batch) && value.is_contiguous() &&
                  value.scalar_type() == arithmetic_dtype(batch.scalar_type()) &&
                  (value.numel() == 1 || value.numel() == batch.size(0)),
              name,
              ": expected one value, or one per sample, on the device of the batch, float64 for a float64 "
              "batch, else "
              "float32");
        return {data<A>(value), value.numel() == 1 ? 0 : 1};
    }

    static Tensor project(const Tensor& delta_, const Tensor& eps, const std::optional<Tensor>& center_,
                          double lower, double upper) {
        const Tensor delta = as_contiguous(delta_);
        const Shape shape(delta);
        std::optional<Tensor> center;
        if (center_.has_value()) {
            check_like("center", *center_, delta);
            center = as_contiguous(*center_);
        }
        Tensor out = new_result(delta, delta.sizes());
        for_dtype("delta", delta.scalar_type(), [&]<typename T>() {
            using A = arithmetic_t<T>;
            Kernels(delta).template project_linf<T>(
                data<const T>(delta), center ? data<const T>(*center) : nullptr,
                per_row<A>("eps", eps, delta), static_cast<A>(lower), static_cast<A>(upper), shape.rows,
                shape.length, data<T>(out));
        });
        return out;
    }

    // `Value`: a number, or a tensor with one value or one per sample. out may be x_adv, which is contiguous.
    template <typename Value>
    static void step_into(Tensor& out, const Tensor& x_adv, const Tensor& grad_, const Tensor& x_, Value eps,
                          Value step, double lower, double upper) {
        const Shape shape(x_adv);
        check_like("grad", grad_, x_adv);
        check_like("x", x_, x_adv);
        const Tensor grad = as_contiguous(grad_), x = as_contiguous(x_);
        for_dtype("x_adv", x_adv.scalar_type(), [&]<typename T>() {
            using A = arithmetic_t<T>;
            Kernels(x_adv).template linf_step<T>(
                data<const T>(x_adv), data<const T>(grad), data<const T>(x), per_row<A>("eps", eps, x_adv),
                per_row<A>("step_size", step, x_adv), static_cast<A>(lower), static_cast<A>(upper),
                shape.rows, shape.length, data<T>(out));
        });
    }

    template <typename Value>
    static Tensor step(const Tensor& x_adv_, const Tensor& grad, const Tensor& x, Value eps, Value step_size,
                       double lower, double upper) {
        const Tensor x_adv = as_contiguous(x_adv_);
        Tensor out = new_result(x_adv, x_adv.sizes());
        step_into<Value>(out, x_adv, grad, x, eps, step_size, lower, upper);
        return out;
    }

    template <typename Value>
    static void step_in_place(Tensor x_adv, const Tensor& grad, const Tensor& x, Value eps, Value step_size,
                              double lower, double upper) {
        Tensor result = as_contiguous(x_adv);
        step_into<Value>(result, result, grad, x, eps, step_size, lower, upper);
        if (!x_adv.is_contiguous()) torch::stable::copy_(x_adv, result);
    }
};

}  // namespace integralrob
