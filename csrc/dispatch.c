/* Which instruction sets this processor has and the system lets a process use. Compiled for every x86-64. */
#include <cpuid.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Bits of the registers of CPUID, leaf by leaf (Intel's Software Developer's Manual, volume 2A). */
enum {
    SSE3 = 1 << 0, SSSE3 = 1 << 9, FMA = 1 << 12, SSE4_1 = 1 << 19, SSE4_2 = 1 << 20, MOVBE = 1 << 22, POPCNT = 1 << 23,
    OSXSAVE = 1 << 27, AVX = 1 << 28, F16C = 1 << 29,                                        /* 1, ecx */
    BMI1 = 1 << 3, AVX2 = 1 << 5, BMI2 = 1 << 8, AVX512F = 1 << 16, AVX512DQ = 1 << 17, AVX512CD = 1 << 28,
    AVX512BW = 1 << 30,                                                                      /* 7.0, ebx */
    AVX512VNNI = 1 << 11,                                                                    /* 7.0, ecx */
    AMX_BF16 = 1 << 22, AMX_TILE = 1 << 24, AMX_INT8 = 1 << 25,                              /* 7.0, edx */
    AVX_VNNI = 1 << 4, AVX512_BF16 = 1 << 5,                                                 /* 7.1, eax */
    LZCNT = 1 << 5                                                                           /* 0x80000001, ecx */
};
#define AVX512VL (1u << 31) /* 7.0, ebx */

/* Registers that the system keeps for every thread: XCR0. */
enum { FOR_AVX = 0x6, FOR_AVX512 = 0xe6, FOR_AMX = 0x60000 };
enum { ARCH_REQ_XCOMP_PERM = 0x1023, TILE_DATA = 18 };

typedef struct {
    unsigned eax, ebx, ecx, edx;
} leaf;

static leaf leaf_of(unsigned number, unsigned part) {
    leaf l = {};
    __get_cpuid_count(number, part, &l.eax, &l.ebx, &l.ecx, &l.edx);
    return l;
}

static uint64_t kept_registers(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static int has(uint64_t found, uint64_t wanted) { return (found & wanted) == wanted; }

/* Linux hands the tile registers out on request, to a whole process. */
static int may_use_tiles(void) { return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0; }

/* The best of the levels in CMakeLists.txt up to `highest`, as its place there, from 1 on; 0: none of them. A processor may lack
   a level below its best one: AVX-512 came before the VNNI instructions of AVX. Asks for the tile registers if `highest`
   allows the level that uses them. */
__attribute__((visibility("default"))) int best_level(int highest) {
    enum { NONE, V3, AVXVNNI, AVX512, AMX };
    const leaf one = leaf_of(1, 0), seven = leaf_of(7, 0), next = seven.eax ? leaf_of(7, 1) : (leaf){}, more = leaf_of(0x80000001, 0);
    if (highest < V3 || !has(one.ecx, SSE3 | SSSE3 | FMA | SSE4_1 | SSE4_2 | MOVBE | POPCNT | OSXSAVE | AVX | F16C)) return NONE;
    if (!has(seven.ebx, BMI1 | AVX2 | BMI2) || !has(more.ecx, LZCNT)) return NONE;
    const uint64_t kept = kept_registers();
    if (!has(kept, FOR_AVX)) return NONE;
    const int avx512 = has(kept, FOR_AVX512) && has(seven.ebx, AVX512F | AVX512DQ | AVX512CD | AVX512BW | AVX512VL) &&
                       has(seven.ecx, AVX512VNNI) && has(next.eax, AVX512_BF16);
    if (highest >= AMX && avx512 && has(kept, FOR_AMX) && has(seven.edx, AMX_BF16 | AMX_TILE | AMX_INT8) && may_use_tiles())
        return AMX;
    if (highest >= AVX512 && avx512) return AVX512;
    return highest >= AVXVNNI && has(next.eax, AVX_VNNI) ? AVXVNNI : V3;
}
