// Fibers: stacks to run on, switched by hand. A switch costs some nanoseconds; POSIX's swapcontext, the
// fallback for other machines than x86-64 (and with SIMT_UCONTEXT), makes a system call.
#pragma once

#include <cstddef>

#if !defined(__x86_64__)
#define SIMT_UCONTEXT
#endif
#ifdef SIMT_UCONTEXT
#include <ucontext.h>
#endif

namespace simt {

class Fiber {
  public:
    // What runs already, on the machine's own stack.
    Fiber() = default;
    // Will run `entry`, which never returns, on the stack [bottom, bottom + size).
    Fiber(void* bottom, size_t size, void (*entry)());
    Fiber(const Fiber&) = delete;
    Fiber& operator=(const Fiber&) = delete;

    // Suspends this fiber, the one that runs, until another switches to it.
    void switch_to(Fiber& other);

  private:
    static void start();
    void arrive();

    void (*entry_)() = nullptr;
    const void* bottom_ = nullptr;  // of the stack, what AddressSanitizer wants to know
    size_t size_ = 0;
    void* fake_stack_ = nullptr;
#ifdef SIMT_UCONTEXT
    ucontext_t context_;
#else
    void* stack_pointer_ = nullptr;
#endif
};

// Memory for `count` stacks, each above a page that nobody may touch. The machine commits what is used.
class Stacks {
  public:
    explicit Stacks(size_t count);
    ~Stacks();
    Stacks(const Stacks&) = delete;
    Stacks& operator=(const Stacks&) = delete;

    void* bottom(size_t k) const;
    static size_t size();

  private:
    char* memory_;
    size_t count_;
};

}  // namespace simt
