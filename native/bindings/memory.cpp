#include "memory.hpp"

#include <deque>
#include <mutex>
#include <new>

#if defined(__unix__) || defined(__APPLE__)
#define KERAMORPH_HAS_PAGES 1
#include <pthread.h>
#include <sys/mman.h>
#else
#define KERAMORPH_HAS_PAGES 0
#endif

#include "threads.hpp"

namespace keramorph {
namespace {

// An iteration of the solver has about as many outputs alive in turn; more would only hoard.
constexpr std::size_t most_buffers = 12;
constexpr std::int64_t most_bytes = std::int64_t{512} << 20;
// Of the system's large pages.
constexpr std::int64_t granule = std::int64_t{2} << 20;

struct Buffer {
  void* data;
  std::int64_t capacity;
};

#if KERAMORPH_HAS_PAGES

// Pages of its own: among others' arrays on the heap, a buffer that is given back would stay with the program.
void* make_buffer(std::int64_t capacity) {
  const auto size = static_cast<std::size_t>(capacity + granule);
  void* given = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (given == MAP_FAILED) throw std::bad_alloc();
  char* const begin = static_cast<char*>(given);
  const auto above = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(begin) % granule);
  char* const data = begin + (above == 0 ? 0 : granule - above);
  if (data != begin) munmap(begin, static_cast<std::size_t>(data - begin));
  char* const end = data + capacity;
  if (end != begin + size) munmap(end, static_cast<std::size_t>(begin + size - end));
  return data;
}

void free_buffer(const Buffer& buffer) { munmap(buffer.data, static_cast<std::size_t>(buffer.capacity)); }

#else

void* make_buffer(std::int64_t capacity) {
  return ::operator new(static_cast<std::size_t>(capacity), std::align_val_t{static_cast<std::size_t>(granule)});
}

void free_buffer(const Buffer& buffer) {
  ::operator delete(buffer.data, std::align_val_t{static_cast<std::size_t>(granule)});
}

#endif

// Leaked on purpose: arrays may die after the static destructors have run.
std::mutex* turn = new std::mutex;
std::deque<Buffer>* waiting = new std::deque<Buffer>;

void forget_lock_after_fork() { turn = new std::mutex; }

void watch_for_forks() {
#if KERAMORPH_HAS_PAGES
  // Whoever held the lock does not exist in the child. The buffers do: they were copied.
  static const int hooked = pthread_atfork([] { turn->lock(); }, [] { turn->unlock(); }, forget_lock_after_fork);
  (void)hooked;
#endif
}

std::int64_t count_bytes() {
  std::int64_t total = 0;
  for (const Buffer& buffer : *waiting) total += buffer.capacity;
  return total;
}

// The smallest that is large enough, unless it wastes as much as it holds; otherwise fresh.
Buffer take(std::int64_t capacity) {
  watch_for_forks();
  {
    std::lock_guard<std::mutex> hold(*turn);
    auto best = waiting->end();
    for (auto each = waiting->begin(); each != waiting->end(); ++each) {
      const bool fits = each->capacity >= capacity && each->capacity / 2 < capacity;
      if (fits && (best == waiting->end() || each->capacity < best->capacity)) best = each;
    }
    if (best != waiting->end()) {
      const Buffer found = *best;
      waiting->erase(best);
      return found;
    }
  }
  void* data = make_buffer(capacity);
  touch_lightly(data, capacity);
  return {data, capacity};
}

void give(Buffer buffer) {
  std::lock_guard<std::mutex> hold(*turn);
  waiting->push_back(buffer);
  while (waiting->size() > most_buffers || count_bytes() > most_bytes) {
    free_buffer(waiting->front());
    waiting->pop_front();
  }
}

}  // namespace

Memory::Memory(std::int64_t bytes) : bytes_(bytes) {
  const Buffer buffer = take((bytes + granule - 1) / granule * granule);
  data_ = buffer.data;
  capacity_ = buffer.capacity;
}

Memory::~Memory() { give({data_, capacity_}); }

std::int64_t waiting_bytes() {
  std::lock_guard<std::mutex> hold(*turn);
  return count_bytes();
}

void release_memory() {
  std::lock_guard<std::mutex> hold(*turn);
  for (const Buffer& buffer : *waiting) free_buffer(buffer);
  waiting->clear();
}

}  // namespace keramorph
