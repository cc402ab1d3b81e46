// Where the shared memory of a block is, and the garbage in it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <span>

namespace simt {

// SplitMix64.
class Random {
  public:
    explicit Random(uint64_t seed) : state_(seed) {}
    uint64_t bits() {
        uint64_t z = state_ += 0x9e3779b97f4a7c15u;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return z ^ (z >> 31);
    }
    // For n well below 2^32.
    unsigned below(size_t n) { return static_cast<unsigned>(((bits() >> 32) * n) >> 32); }

  private:
    uint64_t state_;
};

void fill_with_garbage(std::span<std::byte> memory, Random& random);

// The memory of the calling thread's `__shared__` variables in the executable or library that holds `kernel`.
std::span<std::byte> static_shared_memory(const void* kernel);

// On the heap, of exactly the size asked for, so that AddressSanitizer sees what lies outside.
class DynamicSharedMemory {
  public:
    explicit DynamicSharedMemory(size_t size)
        : bytes_(static_cast<std::byte*>(::operator new(size, kAlignment))), size_(size) {}
    std::span<std::byte> bytes() const { return {bytes_.get(), size_}; }

  private:
    static constexpr std::align_val_t kAlignment{128};
    struct Delete {
        void operator()(std::byte* bytes) const { ::operator delete(bytes, kAlignment); }
    };
    std::unique_ptr<std::byte, Delete> bytes_;
    size_t size_;
};

}  // namespace simt
