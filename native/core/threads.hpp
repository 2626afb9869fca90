// The extension's own threads: as many as asked for, shared by all kernels, never spinning.
#pragma once

#include <cstdint>
#include <functional>

namespace keramorph {

// Number of threads of a kernel, the caller's own included.
int threads();
void set_threads(int count);

// Call work(first, last) for consecutive ranges that cover 0 .. count, each of `grain` items (the last may be shorter).
//
// Ranges start at multiples of the grain whatever the number of threads, so that a kernel whose ranges do not share
// output gives the same bits for any number. The caller works too. Where another kernel holds the threads (two Python
// threads, two graph nodes), the caller does all ranges by itself. Survives fork(): a child starts its own threads.
void parallel(std::int64_t count, std::int64_t grain, const std::function<void(std::int64_t, std::int64_t)>& work);

// Tell the system to back a large fresh array by large pages: a first touch costs a fault per page, and that took
// longer than the whole kernel for a field of 80 MB.
void touch_lightly(void* memory, std::int64_t bytes);

}  // namespace keramorph
