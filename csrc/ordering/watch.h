// When a search has to stop.
#pragma once

#include <chrono>

#include "ordering/path_solver.h"

namespace integralrob {

class Watch {
  public:
    Watch(double seconds, const KeepGoing& keep_going) : limit_(seconds), keep_going_(keep_going) {}

    // To be asked often, with the length of the best path.
    bool stop(double length) {
        if (stopped_) return true;
        const double now = std::chrono::duration<double>(Clock::now() - begin_).count();
        if (now >= limit_) {
            stopped_ = true;
        } else if (now >= next_) {
            stopped_ = !keep_going_(now, length);
            next_ = now + kSeconds;
        }
        return stopped_;
    }

  private:
    using Clock = std::chrono::steady_clock;
    static constexpr double kSeconds = 0.05;

    Clock::time_point begin_ = Clock::now();
    double limit_, next_ = 0;
    bool stopped_ = false;
    const KeepGoing& keep_going_;
};

}  // namespace integralrob
