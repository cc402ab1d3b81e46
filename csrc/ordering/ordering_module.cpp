// The Python module `integralrob_ordering`: the path solver on NumPy arrays.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "ordering/path_solver.h"

namespace py = pybind11;

namespace {

constexpr double kProgressSeconds = 0.1;

template <typename T>
using Array = py::array_t<T, py::array::c_style | py::array::forcecast>;

// What memory is read by is not taken on trust.
void check(const Array<double>& distance, const Array<int64_t>& start) {
    if (distance.ndim() != 2 || distance.shape(0) != distance.shape(1)) {
        throw std::invalid_argument("distance: expected a square matrix");
    }
    const int64_t size = distance.shape(0);
    std::vector<char> seen(size, false);
    bool permutation = start.ndim() == 1 && start.shape(0) == size;
    for (int64_t i = 0; permutation && i < size; ++i) {
        const int64_t point = start.at(i);
        permutation = 0 <= point && point < size && !seen[point];
        if (permutation) seen[point] = true;
    }
    if (!permutation) throw std::invalid_argument("start: expected a permutation of the points");
}

// Signals, and progress, under the GIL, which the search does without.
class Conversation {
  public:
    explicit Conversation(py::object progress) : progress_(std::move(progress)) {}

    bool interrupted() const { return interrupted_; }

    // False after Ctrl-C. All other exceptions, of `progress` and of signal handlers, end the search.
    bool go_on(double seconds, double length) {
        const py::gil_scoped_acquire gil;
        try {
            if (PyErr_CheckSignals() != 0) throw py::error_already_set();
            if (!progress_.is_none() && seconds >= next_) {
                next_ = seconds + kProgressSeconds;
                progress_(seconds, length);
            }
        } catch (const py::error_already_set& error) {
            if (!error.matches(PyExc_KeyboardInterrupt)) throw;
            interrupted_ = true;
        }
        return !interrupted_;
    }

  private:
    py::object progress_;
    double next_ = 0;
    bool interrupted_ = false;
};

py::tuple shortest_path(const Array<double>& distance, const Array<int64_t>& start, uint64_t seed,
                        int64_t kicks, int64_t stall, double seconds, py::object progress) {
    check(distance, start);
    Conversation conversation(std::move(progress));
    integralrob::PathResult result;
    {
        const double* const numbers = distance.data();
        const int64_t* const first = start.data();
        const int64_t size = distance.shape(0);
        const py::gil_scoped_release no_gil;
        result = integralrob::shortest_path(
            numbers, size, first, seed, {kicks, stall, seconds},
            [&](double elapsed, double length) { return conversation.go_on(elapsed, length); });
    }
    Array<int64_t> path(static_cast<py::ssize_t>(result.path.size()));
    std::copy(result.path.begin(), result.path.end(), path.mutable_data());
    return py::make_tuple(path, result.kicks, conversation.interrupted());
}

}  // namespace

PYBIND11_MODULE(integralrob_ordering, module) {
    module.doc() = "Channel ordering; integralrob.conversion.ordering is its interface.";
    module.def("shortest_path", &shortest_path, py::arg("distance"), py::arg("start"), py::kw_only(),
               py::arg("seed"), py::arg("kicks"), py::arg("stall"), py::arg("seconds"), py::arg("progress"),
               "The path (position -> point), the number of kicks, and whether Ctrl-C ended the search.");
}
