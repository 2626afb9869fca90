// The extension's own threads: as many as asked for, shared by all kernels, never spinning.
#pragma once

#include <cstdint>

namespace keramorph {

// Number of threads of a kernel, the caller's own included.
int threads();
void set_threads(int count);

// Call work(context, first, last) for consecutive ranges that cover 0 .. count, each of `grain` items (the last may be
// shorter).
//
// Ranges start at multiples of the grain whatever the number of threads, so that a kernel whose ranges do not share
// output gives the same bits for any number. The caller works too. Where another kernel holds the threads (two Python
// threads, two graph nodes), the caller does all ranges by itself. Survives fork(): a child starts its own threads.
void run_parallel(std::int64_t count, std::int64_t grain, void (*work)(void*, std::int64_t, std::int64_t),
                  void* context);

namespace {

// The same for anything callable. Of internal linkage, so that each source keeps the copy for its own instruction set.
template <class Work>
void parallel(std::int64_t count, std::int64_t grain, const Work& work) {
  run_parallel(
      count, grain,
      [](void* context, std::int64_t first, std::int64_t last) { (*static_cast<const Work*>(context))(first, last); },
      const_cast<Work*>(&work));
}

}  // namespace

// Tell the system to back a large fresh array by large pages: a first touch costs a fault per page, and that took
// longer than the whole kernel for a field of 80 MB.
void touch_lightly(void* memory, std::int64_t bytes);

}  // namespace keramorph
