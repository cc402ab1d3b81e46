#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#ifndef SIMT_UCONTEXT
// void simt_switch(void** suspended, void* resumed): pushes what a function must preserve, exchanges the
// stacks, pops.
asm(R"(
    .text
    .p2align 4
    .hidden simt_switch
    .globl simt_switch
    .type simt_switch, @function
simt_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size simt_switch, . - simt_switch
)");
extern "C" void simt_switch(void** suspended, void* resumed);
#endif

namespace simt {
namespace {

constexpr size_t kPage = 4096;
#ifdef __SANITIZE_ADDRESS__
constexpr size_t kStackSize = 256 << 10;  // frames are several times as large
#else
constexpr size_t kStackSize = 64 << 10;
#endif

Fiber* leaving;   // the fiber that the last switch suspended
Fiber* arriving;  // the one that it resumed

}  // namespace

Fiber::Fiber(void* bottom, size_t size, void (*entry)()) : entry_(entry), bottom_(bottom), size_(size) {
#ifdef __SANITIZE_ADDRESS__
    __asan_unpoison_memory_region(bottom, size);  // frames that a fiber left when it was abandoned
#endif
#ifdef SIMT_UCONTEXT
    getcontext(&context_);
    context_.uc_stack.ss_sp = bottom;
    context_.uc_stack.ss_size = size;
    context_.uc_link = nullptr;
    makecontext(&context_, &Fiber::start, 0);
#else
    // Six registers, the address of `start`, and no return address above it. Equal offsets in all stacks
    // would compete for the same cache sets.
    const size_t colour = reinterpret_cast<uintptr_t>(bottom) / (size + kPage) % 16 * 256;
    void** top = reinterpret_cast<void**>(static_cast<char*>(bottom) + size - colour) - 2;
    top[0] = reinterpret_cast<void*>(&Fiber::start);
    top[1] = nullptr;
    for (int k = 1; k <= 6; ++k) top[-k] = nullptr;
    stack_pointer_ = top - 6;
#endif
}

void Fiber::switch_to(Fiber& other) {
    leaving = this;
    arriving = &other;
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(&fake_stack_, other.bottom_, other.size_);
#endif
#ifdef SIMT_UCONTEXT
    swapcontext(&context_, &other.context_);
#else
    simt_switch(&stack_pointer_, other.stack_pointer_);
#endif
    arrive();
}

void Fiber::arrive() {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(fake_stack_, &leaving->bottom_, &leaving->size_);
#endif
}

void Fiber::start() {
    arriving->arrive();
    arriving->entry_();
}

Stacks::Stacks(size_t count) : count_(count) {
    void* const memory = mmap(nullptr, count * (kPage + kStackSize), PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    memory_ = static_cast<char*>(memory);
    for (size_t k = 0; k < count; ++k) mprotect(memory_ + k * (kPage + kStackSize), kPage, PROT_NONE);
}

Stacks::~Stacks() { munmap(memory_, count_ * (kPage + kStackSize)); }

void* Stacks::bottom(size_t k) const { return memory_ + k * (kPage + kStackSize) + kPage; }

size_t Stacks::size() { return kStackSize; }

}  // namespace simt
