// Random numbers that are the same on every machine.
#pragma once

#include <cstdint>

namespace integralrob {

// splitmix64.
class Random {
  public:
    explicit Random(uint64_t seed) : state_(seed) {}

    // 0 .. n - 1, uniform up to n / 2^32.
    int32_t below(int32_t n) {
        uint64_t z = state_ += 0x9e3779b97f4a7c15u;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return static_cast<int32_t>(((z >> 32) * static_cast<uint64_t>(n)) >> 32);
    }

  private:
    uint64_t state_;
};

}  // namespace integralrob
