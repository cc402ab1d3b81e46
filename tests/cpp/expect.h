// What the C++ tests share: checks that tell where and with which numbers, and a generator of random numbers.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

namespace expect {

inline int failures = 0;

// The first failures are printed, all are counted.
inline bool report(const char* file, int line, const char* what) {
    if (++failures <= 20) std::fprintf(stderr, "%s:%d: %s\n", file, line, what);
    return failures <= 20;
}

inline int summary() {
    if (failures > 0) std::fprintf(stderr, "%d checks failed\n", failures);
    return failures == 0 ? 0 : 1;
}

// Uniform on [-1, 1), the same everywhere (xorshift64*).
class Random {
  public:
    double number() { return static_cast<double>(bits() >> 11) * 0x1p-52 - 1.0; }
    int64_t below(int64_t n) { return static_cast<int64_t>(bits() % static_cast<uint64_t>(n)); }
    template <typename T, typename Make>
    std::vector<T> numbers(int64_t count, const Make& make) {
        std::vector<T> result(count);
        for (T& x : result) x = make(number());
        return result;
    }

  private:
    uint64_t state_ = 0x9e3779b97f4a7c15u;
    uint64_t bits() {
        state_ ^= state_ >> 12;
        state_ ^= state_ << 25;
        state_ ^= state_ >> 27;
        return state_ * 0x2545f4914f6cdd1du;
    }
};

}  // namespace expect

#define CHECK(condition)                                                  \
    do {                                                                  \
        if (!(condition)) expect::report(__FILE__, __LINE__, #condition); \
    } while (false)

// CHECK_THAT(condition, format, ...) prints the numbers too.
#define CHECK_THAT(condition, ...)                                            \
    do {                                                                      \
        if (!(condition) && expect::report(__FILE__, __LINE__, #condition)) { \
            std::fprintf(stderr, "    " __VA_ARGS__);                         \
            std::fputc('\n', stderr);                                         \
        }                                                                     \
    } while (false)
