#include "shared_memory.h"

#include <link.h>

#include <cstring>
#include <unordered_map>

// What the compiler calls for a thread-local variable: the address of `offset` in a module's block.
extern "C" void* __tls_get_addr(size_t* module_and_offset);

namespace simt {
namespace {

// Of one executable or library. Its thread-local variables without initial value (.tbss) follow those with.
struct ThreadLocals {
    size_t module = 0;
    size_t first = 0, size = 0;
};

struct Search {
    uintptr_t address;
    ThreadLocals found;
};

int look_into(dl_phdr_info* info, size_t, void* data) {
    Search& search = *static_cast<Search*>(data);
    const ElfW(Phdr)* locals = nullptr;
    bool here = false;
    for (const ElfW(Phdr) & segment : std::span(info->dlpi_phdr, info->dlpi_phnum)) {
        const uintptr_t begin = info->dlpi_addr + segment.p_vaddr;
        if (segment.p_type == PT_LOAD && search.address - begin < segment.p_memsz) here = true;
        if (segment.p_type == PT_TLS) locals = &segment;
    }
    if (here && locals != nullptr) {
        search.found = {info->dlpi_tls_modid, locals->p_filesz, locals->p_memsz - locals->p_filesz};
    }
    return here;
}

}  // namespace

std::span<std::byte> static_shared_memory(const void* kernel) {
    static std::unordered_map<const void*, ThreadLocals> known;
    auto entry = known.find(kernel);
    if (entry == known.end()) {
        Search search{reinterpret_cast<uintptr_t>(kernel), {}};
        dl_iterate_phdr(look_into, &search);
        entry = known.emplace(kernel, search.found).first;
    }
    const ThreadLocals& locals = entry->second;
    if (locals.size == 0) return {};
    size_t module_and_offset[] = {locals.module, locals.first};
    return {static_cast<std::byte*>(__tls_get_addr(module_and_offset)), locals.size};
}

void fill_with_garbage(std::span<std::byte> memory, Random& random) {
    // An arithmetic progression modulo 2^64: every block pays for all `__shared__` variables of its library.
    uint64_t bits = random.bits();
    size_t k = 0;
    for (; k + sizeof(bits) <= memory.size(); k += sizeof(bits), bits += 0xd1342543de82ef95u) {
        std::memcpy(&memory[k], &bits, sizeof(bits));
    }
    for (; k < memory.size(); ++k, bits >>= 8) memory[k] = static_cast<std::byte>(bits);
}

}  // namespace simt
