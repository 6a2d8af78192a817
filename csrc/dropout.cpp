// Which elements dropout keeps, drawn as Inductor's generated CPU code draws them: Philox 4x32 of 10 rounds (Salmon et al., SC 2011)
// under a seed of 32 bits, the element's place as counter, and of the four words the first one, of which the lower 31 bits are a
// number from 0 to 1. Read in torch 2.11 to 2.15: c10's philox_engine and `normalized_rand_cpu` of Inductor's C++ prefix.

#include "graphckpt_core.h"

#include <cstdint>
#include <cstring>

namespace {

constexpr int kRounds = 10;
constexpr float kScale = 4.6566127342e-10f;
// Elements drawn at a time: plain loops over so many are what compilers turn into vector instructions.
constexpr int kLanes = 16;

// The first words for `kLanes` counters from `first` on.
__attribute__((optimize("O3"))) void draw(uint32_t seed, uint32_t first, uint32_t* words) {
  uint32_t a[kLanes], b[kLanes], c[kLanes], d[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) {
    a[lane] = first + static_cast<uint32_t>(lane);
    b[lane] = c[lane] = d[lane] = 0;
  }
  uint32_t low_key = seed, high_key = 0;
  for (int round = 0; round < kRounds; ++round) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const uint64_t left = static_cast<uint64_t>(0xD2511F53u) * a[lane], right = static_cast<uint64_t>(0xCD9E8D57u) * c[lane];
      a[lane] = static_cast<uint32_t>(right >> 32) ^ b[lane] ^ low_key;
      c[lane] = static_cast<uint32_t>(left >> 32) ^ d[lane] ^ high_key;
      b[lane] = static_cast<uint32_t>(right);
      d[lane] = static_cast<uint32_t>(left);
    }
    low_key += 0x9E3779B9u;
    high_key += 0xBB67AE85u;
  }
  std::memcpy(words, a, sizeof(a));
}

}  // namespace

void graphckpt_dropout_kept(const graphckpt_dropout_part* part, uint8_t* kept) {
  uint32_t words[kLanes];
  for (int64_t block = 0; block < part->blocks; ++block) {
    for (int64_t row = part->first_row; row < part->last_row; ++row) {
      const int64_t start = (block * part->rows + row) * part->columns;
      for (int64_t column = part->first_column; column < part->last_column; column += kLanes) {
        draw(part->seed, static_cast<uint32_t>(start + column), words);
        const int64_t left = part->last_column - column;
        for (int64_t lane = 0; lane < (left < kLanes ? left : kLanes); ++lane) {
          const float number = static_cast<float>(words[lane] & 0x7FFFFFFFu) * kScale;
          *kept++ = number > part->probability;
        }
      }
    }
  }
}
