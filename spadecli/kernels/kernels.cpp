// Kernels of the generator's inference form (native.py documents the arguments of each function).
//
// Plain C interface, no headers beyond the standard library: compiled once per instruction set by setup.py.
// Feature maps are channels-last float32. Every row of a product is summed in a fixed order, whatever the batch.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

extern "C" int omp_get_thread_num();

#if defined(__AVX512F__)
constexpr int VL = 16, MR = 14;
#elif defined(__AVX2__) && defined(__FMA__)
constexpr int VL = 8, MR = 6;
#else
constexpr int VL = 4, MR = 6;
#endif
constexpr int NV = 2, P = NV * VL;  // vectors in a panel, columns of a panel

typedef float vec __attribute__((vector_size(VL * 4)));
typedef float loose __attribute__((vector_size(VL * 4), aligned(4), may_alias));

template <class T> static inline T load(const float* p);
template <> inline vec load<vec>(const float* p) { return *(const loose*)p; }
template <> inline float load<float>(const float* p) { return *p; }
static inline void store(float* p, vec v) { *(loose*)p = v; }
static inline void store(float* p, float v) { *p = v; }
static inline float leaky(float v, float leak) { return std::max(v, v * leak); }
static inline vec leaky(vec v, float leak) {
    vec w = v * leak;
    return v > w ? v : w;
}

// call f(c, T{}) for channels 0..C: whole vectors, then one by one
template <class F> static inline void over_channels(int64_t C, F f) {
    int64_t c = 0;
    for (; c + VL <= C; c += VL) f(c, vec{});
    for (; c < C; c++) f(c, 0.0f);
}

// ---- products -------------------------------------------------------------------------------------------------

// C (R rows, whole panels wide) = rows of A (R pointers, K values each) x a packed panel [K,P], or added to C
template <int R>
static void multiply(const float* const* a, int64_t K, const float* b, float* c, int64_t c_stride, bool add) {
    vec s[R][NV];
    const float* p[R];
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
        p[r] = a[r];
        s[r][0] = add ? load<vec>(c + r * c_stride) : vec{};
        s[r][1] = add ? load<vec>(c + r * c_stride + VL) : vec{};
    }
    for (int64_t k = 0; k < K; k++, b += P) {
        vec b0 = load<vec>(b), b1 = load<vec>(b + VL);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
            s[r][0] += p[r][k] * b0;
            s[r][1] += p[r][k] * b1;
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
        store(c + r * c_stride, s[r][0]);
        store(c + r * c_stride + VL, s[r][1]);
    }
}

typedef void (*Multiply)(const float* const*, int64_t, const float*, float*, int64_t, bool);
template <int R> struct Fill {
    static void run(Multiply* t) {
        t[R] = multiply<R>;
        Fill<R - 1>::run(t);
    }
};
template <> struct Fill<0> {
    static void run(Multiply*) {}
};
static const struct Table {
    Multiply of[MR + 1];
    Table() { Fill<MR>::run(of); }
} TABLE;

// C[rows, columns of one panel] = A[rows, K] x panel, or added to C, which then has P columns. A and C have row strides.
static void panel_product(const float* a, int64_t a_stride, int64_t rows, int64_t K, const float* panel, float* c,
                          int64_t c_stride, int64_t columns, bool add = false) {
    int64_t blocks = (rows + MR - 1) / MR;
    for (int64_t i = 0; i < blocks; i++) {
        int64_t first = rows * i / blocks, n = rows * (i + 1) / blocks - first;
        const float* p[MR];
        for (int64_t r = 0; r < n; r++) {
            p[r] = a + (first + r) * a_stride;
            // rows are too short for the hardware prefetcher
            for (int64_t k = 0; k < K && i + 1 < blocks; k += 16) __builtin_prefetch(p[r] + n * a_stride + k);
        }
        if (columns >= P) {
            TABLE.of[n](p, K, panel, c + first * c_stride, c_stride, add);
        } else {
            alignas(64) float some[MR * P];
            TABLE.of[n](p, K, panel, some, P, false);
            for (int64_t r = 0; r < n; r++)
                std::memcpy(c + (first + r) * c_stride, some + r * P, columns * sizeof(float));
        }
    }
}

extern "C" int spade_panel() { return P; }

// weight [K,N] -> panels [ceil(N/P), K, P], padded with zeros after the last column
extern "C" void spade_pack(const float* weight, int64_t K, int64_t N, float* packed, int threads) {
    int64_t panels = (N + P - 1) / P;
#pragma omp parallel for num_threads(threads)
    for (int64_t j = 0; j < panels; j++)
        for (int64_t k = 0; k < K; k++)
            for (int64_t i = 0; i < P; i++)
                packed[(j * K + k) * P + i] = j * P + i < N ? weight[k * N + j * P + i] : 0.0f;
}

// ---- windows --------------------------------------------------------------------------------------------------

// Numbers tuples of k integers from 1 on, in order of appearance.
struct Numbers {
    int k;
    std::vector<int32_t> slots, keys;
    uint64_t mask;
    int32_t count = 0;
    explicit Numbers(int k) : k(k), slots(1 << 12), mask((1 << 12) - 1) {}

    static uint64_t mix(const int32_t* key, int k) {
        uint64_t h = 0x9E3779B97F4A7C15ull;
        for (int i = 0; i < k; i++) {
            h = (h ^ (uint32_t)key[i]) * 0xD6E8FEB86659FD93ull;
            h ^= h >> 32;
        }
        return h;
    }
    int32_t of(const int32_t* key) {
        uint64_t at = mix(key, k) & mask;
        while (int32_t id = slots[at]) {
            if (!std::memcmp(&keys[(int64_t)(id - 1) * k], key, k * sizeof(int32_t))) return id;
            at = (at + 1) & mask;
        }
        slots[at] = ++count;
        keys.insert(keys.end(), key, key + k);
        if ((uint64_t)count * 2 > mask) grow();
        return count;
    }
    void grow() {
        mask = mask * 4 + 3;
        slots.assign(mask + 1, 0);
        for (int32_t id = 1; id <= count; id++) {
            uint64_t at = mix(&keys[(int64_t)(id - 1) * k], k) & mask;
            while (slots[at]) at = (at + 1) & mask;
            slots[at] = id;
        }
    }
};

// The distinct k x k windows of values [M,h,w], numbered from 1: numbers [M,h,w], windows [n,k*k] of values, 0 outside.
static int64_t number_windows(const int32_t* values, int64_t M, int64_t h, int64_t w, int k, int32_t* numbers,
                              int32_t* windows) {
    // the rows of each window are numbered first, then the columns of row numbers
    Numbers rows(k), columns(k);
    std::vector<int32_t> row_number(M * h * w), line(w + k);
    int half = k / 2;
    for (int64_t y = 0; y < M * h; y++) {
        std::memcpy(&line[half], values + y * w, w * sizeof(int32_t));
        std::fill(line.begin() + half + w, line.end(), 0);
        for (int64_t x = 0; x < w; x++) {
            bool again = x && !std::memcmp(&line[x], &line[x - 1], k * sizeof(int32_t));
            row_number[y * w + x] = again ? row_number[y * w + x - 1] : rows.of(&line[x]);
        }
    }
    std::vector<int32_t> key(k), last(k, -1);
    for (int64_t m = 0; m < M; m++)
        for (int64_t y = 0; y < h; y++)
            for (int64_t x = 0; x < w; x++) {
                int64_t at = (m * h + y) * w + x;
                for (int i = 0; i < k; i++) {
                    int64_t yy = y + i - half;
                    key[i] = yy < 0 || yy >= h ? 0 : row_number[at + (i - half) * w];
                }
                if (key == last) {
                    numbers[at] = numbers[at - 1];
                    continue;
                }
                last = key;
                int32_t before = columns.count, id = columns.of(key.data());
                numbers[at] = id;
                if (columns.count > before)
                    for (int i = 0; i < k; i++) {
                        int32_t* window = windows + (int64_t)(id - 1) * k * k + i * k;
                        if (key[i])
                            std::memcpy(window, &rows.keys[(int64_t)(key[i] - 1) * k], k * sizeof(int32_t));
                        else
                            std::fill(window, window + k, 0);
                    }
            }
    return columns.count;
}

// codes [M,h,w] -> patches of codes, windows of patches, window of each pixel; counts[2] of the first two. False: no memory
extern "C" int spade_windows(const int32_t* codes, int64_t M, int64_t h, int64_t w, int k, int32_t* windows,
                              int32_t* windows_of_windows, int32_t* row, int64_t* counts) {
    try {
        std::vector<int32_t> numbers(M * h * w);
        counts[0] = number_windows(codes, M, h, w, k, numbers.data(), windows);
        counts[1] = number_windows(numbers.data(), M, h, w, k, row, windows_of_windows);
    } catch (const std::bad_alloc&) {
        return false;
    }
    for (int64_t i = 0; i < M * h * w; i++) row[i]--;
    return true;
}

// ---- tables ---------------------------------------------------------------------------------------------------

// hidden[1+i] = relu(bias + sum over taps of the planes that are 1 for codes[i]); hidden[0] = 0
extern "C" void spade_hidden(const int32_t* codes, int64_t n, int taps, const float* planes, int64_t num_planes,
                             int has_edges, const float* bias, int64_t C, float* hidden, int threads) {
    std::fill(hidden, hidden + C, 0.0f);
#pragma omp parallel for num_threads(threads)
    for (int64_t i = 0; i < n; i++) {
        float* out = hidden + (i + 1) * C;
        std::memcpy(out, bias, C * sizeof(float));
        for (int t = 0; t < taps; t++) {
            int32_t code = codes[i * taps + t] - 1;
            if (code < 0) continue;
            const float* tap = planes + t * num_planes * C;
            const float* label = tap + (has_edges ? code / 2 : code) * C;
            for (int64_t c = 0; c < C; c++) out[c] += label[c];
            if (has_edges && code % 2) {
                const float* edge = tap + (num_planes - 2) * C;  // the last plane is zeros
                for (int64_t c = 0; c < C; c++) out[c] += edge[c];
            }
        }
        for (int64_t c = 0; c < C; c++) out[c] = std::max(out[c], 0.0f);
    }
}

// rows [n5,N] = bias + sum over taps of hidden[windows[:,tap]] x packed[tap], packed panels of [taps*K, N].
// hidden is [height,K]; scratch: taps * height * P floats for each of `at_once` panels; none if each row is multiplied whole.
extern "C" void spade_rows(const float* hidden, int64_t height, const int32_t* windows, int64_t n5, int taps, int64_t K,
                           const float* packed, const float* bias, int64_t N, float* rows, float* scratch,
                           int64_t at_once, int threads) {
    int64_t panels = (N + P - 1) / P, blocks = (n5 + 255) / 256;
    if (!scratch) {
#pragma omp parallel for collapse(2) schedule(dynamic) num_threads(threads)
        for (int64_t j = 0; j < panels; j++)
            for (int64_t block = 0; block < blocks; block++)
                for (int64_t first = block * 256, end = std::min(n5, first + 256); first < end; first += MR) {
                    int64_t n = std::min<int64_t>(MR, end - first);
                    alignas(64) float sums[MR * P];
                    for (int t = 0; t < taps; t++) {
                        const float* p[MR];
                        for (int64_t r = 0; r < n; r++) p[r] = hidden + windows[(first + r) * taps + t] * K;
                        TABLE.of[n](p, K, packed + (j * taps + t) * K * P, sums, P, t > 0);
                    }
                    int64_t columns = std::min<int64_t>(P, N - j * P);
                    for (int64_t r = 0; r < n; r++)
                        for (int64_t c = 0; c < columns; c++)
                            rows[(first + r) * N + j * P + c] = sums[r * P + c] + bias[j * P + c];
                }
        return;
    }
#pragma omp parallel num_threads(threads)
    for (int64_t base = 0; base < panels; base += at_once) {
        int64_t some = std::min(at_once, panels - base);
#pragma omp for collapse(2) schedule(dynamic)
        for (int64_t j = 0; j < some; j++)
            for (int t = 0; t < taps; t++)
                panel_product(hidden, K, height, K, packed + ((base + j) * taps + t) * K * P,
                              scratch + (j * taps + t) * height * P, P, P);
#pragma omp for collapse(2) schedule(dynamic)
        for (int64_t j = 0; j < some; j++)
            for (int64_t block = 0; block < blocks; block++) {
                int64_t columns = std::min<int64_t>(P, N - (base + j) * P);
                alignas(64) float start[P] = {};
                std::memcpy(start, bias + (base + j) * P, columns * sizeof(float));
                for (int64_t i = block * 256; i < std::min(n5, block * 256 + 256); i++) {
                    vec s[NV];
                    for (int v = 0; v < NV; v++) s[v] = load<vec>(start + v * VL);
                    for (int t = 0; t < taps; t++) {
                        const float* from = scratch + ((j * taps + t) * height + windows[i * taps + t]) * P;
                        for (int v = 0; v < NV; v++) s[v] += load<vec>(from + v * VL);
                    }
                    float* to = rows + i * N + (base + j) * P;
                    if (columns == P)
                        for (int v = 0; v < NV; v++) store(to + v * VL, s[v]);
                    else
                        std::memcpy(to, s, columns * sizeof(float));
                }
            }
    }
}

constexpr int64_t PAD = 16;  // floats after each row and each point: strides of 4 KiB would share cache sets

// ---- feature maps ---------------------------------------------------------------------------------------------

// leaky(x * scale + shift) of C channels; row holds all scales, then all shifts, of C_all channels
static inline void modulate(const float* x, const float* row, int64_t C_all, int64_t C, float leak, float* out) {
    over_channels(C, [&](int64_t c, auto one) {
        using T = decltype(one);
        store(out + c, leaky(load<T>(x + c) * load<T>(row + c) + load<T>(row + C_all + c), leak));
    });
}

// 1x1 convolution without bias of up(x) * scale + shift. x [N,h,w,C] -> out [N,h*up,w*up,O].
// Upsampled pixels with the same value and the same row of scales are multiplied once.
// scratch: spade_shortcut_scratch floats per thread.
static int64_t shortcut_room(int64_t C) { return std::max<int64_t>(4 * MR, (1 << 16) / C / MR * MR); }
extern "C" int64_t spade_shortcut_scratch(int64_t C, int64_t O) {
    return shortcut_room(C) * (C + PAD + O + 4 * 4);  // two 64-bit integers for each of four pixels
}
extern "C" void spade_shortcut(const float* x, int64_t N, int64_t h, int64_t w, int64_t C, int up, const float* rows,
                               const int32_t* row, int64_t samples, const float* packed, int64_t O, float* out,
                               float* scratch, int threads) {
    int64_t H = h * up, W = w * up, pixels = N * h * w, panels = (O + P - 1) / P, room = shortcut_room(C);
    int64_t parts = std::min<int64_t>(pixels, threads * 8);
#pragma omp parallel num_threads(threads)
    {
        int64_t* target = (int64_t*)(scratch + omp_get_thread_num() * spade_shortcut_scratch(C, O));
        int64_t* source = target + room * 4;
        float *in = (float*)(source + room * 4), *product = in + room * (C + PAD);
#pragma omp for schedule(dynamic)
        for (int64_t part = 0; part < parts; part++) {
            int64_t n_in = 0, n_out = 0, end = pixels * (part + 1) / parts;
            for (int64_t i = pixels * part / parts; i < end; i++) {
                int64_t n = i / (h * w), y = i / w % h, xx = i % w;
                const int32_t* map = row + n / samples * H * W;
                int32_t seen[4];
                int64_t first = n_in;
                for (int dy = 0; dy < up; dy++)
                    for (int dx = 0; dx < up; dx++) {
                        int64_t at = (y * up + dy) * W + xx * up + dx, same = first;
                        while (same < n_in && seen[same - first] != map[at]) same++;
                        if (same == n_in) {
                            seen[n_in - first] = map[at];
                            modulate(x + i * C, rows + (int64_t)map[at] * 2 * C, C, C, 1.0f, &in[n_in++ * (C + PAD)]);
                        }
                        target[n_out] = n * H * W + at;
                        source[n_out++] = same;
                    }
                if (n_in + 4 > room || i + 1 == end) {
                    for (int64_t j = 0; j < panels; j++)
                        panel_product(in, C + PAD, n_in, C, packed + j * C * P, &product[j * P], O,
                                      std::min<int64_t>(P, O - j * P));
                    for (int64_t k = 0; k < n_out; k++)
                        std::memcpy(out + target[k] * O, &product[source[k] * O], O * sizeof(float));
                    n_in = n_out = 0;
                }
            }
        }
    }
}

// ---- 3x3 convolutions -----------------------------------------------------------------------------------------
//
// Winograd's minimal filtering F(4x4, 3x3) (Lavin and Gray, CVPR 2016): 36 products for 16 outputs instead of 144.
// Its points are 0, ±1/√2, ±√2 and infinity: about half the rounding error of 0, ±1, ±2.

constexpr int TILE = 4, SIDE = TILE + 2, POINTS = SIDE * SIDE;
constexpr float R2 = 1.41421356237309504880f;

// along one axis: 6 inputs, strides s and t
template <class T> static inline void input_points(const T* d, int s, T* o, int t) {
    T a = d[0], b = d[s], c = d[2 * s], e = d[3 * s], f = d[4 * s], g = d[5 * s];
    T near = f - 2.0f * c, far = f - 0.5f * c;
    T odd_near = R2 / 2 * e - R2 * b, odd_far = R2 * e - R2 / 2 * b;
    o[0] = a - 2.5f * c + f;
    o[t] = near + odd_near, o[2 * t] = near - odd_near;
    o[3 * t] = far + odd_far, o[4 * t] = far - odd_far;
    o[5 * t] = b - 2.5f * e + g;
}

// along one axis: 6 points to 4 outputs. Each point's divisor, the product of its distances from the others, is applied
// here and not in the weights, where it would add a rounding
template <class T> static inline void output_values(const T* i, int s, T* o, int t) {
    T near = i[s] + i[2 * s], far = i[3 * s] + i[4 * s], dnear = i[s] - i[2 * s], dfar = i[3 * s] - i[4 * s];
    constexpr float n = -2 / 3.0f, f = 1 / 6.0f;
    o[0] = i[0] + n * near + f * far;
    o[t] = n * R2 / 2 * dnear + f * R2 * dfar;
    o[2 * t] = n / 2 * near + f * 2 * far;
    o[3 * t] = n * R2 / 4 * dnear + f * R2 * 2 * dfar + i[5 * s];
}

// along one axis: 3 weights to 6 points
template <class T> static inline void weight_points(const T* g, int s, T* o, int t) {
    T a = g[0], b = g[s], c = g[2 * s], near = a + c * 0.5f, far = a + c * 2.0f;
    o[0] = a;
    o[t] = near + b * (R2 / 2), o[2 * t] = near - b * (R2 / 2);
    o[3 * t] = far + b * R2, o[4 * t] = far - b * R2;
    o[5 * t] = c;
}

struct Conv {
    const float* x;  // [N,h,w,C]
    int64_t N, h, w, C;
    int up;
    const float* rows;  // scale and shift of each window [windows,2C], or null: x is convolved as it is
    const int32_t* row;  // window of each pixel [N/samples,H,W]
    int64_t samples;
    float leak;
    const float *packed, *bias;  // panels of [C·9,O] or [9·C,O], depending on the strides, which count rows of a panel
    int64_t tap_stride, channel_stride, O;
    const float* residual;  // [N,H/residual_up,W/residual_up,O] or null; may be out itself
    int residual_up;
    float* out;  // [N,H,W,O]

    int64_t H() const { return h * up; }
    int64_t W() const { return w * up; }
    int64_t across() const { return (W() + TILE - 1) / TILE; }
    int64_t down() const { return (H() + TILE - 1) / TILE; }
    int64_t panels() const { return (O + P - 1) / P; }
};

// Input channels c0..c0+n of a panel of weights -> U[p][n][P], with U_stride(n) from point to point
static int64_t U_stride(int64_t channels) { return channels * P + PAD; }
static void transform_weight(const Conv& a, int64_t panel, int64_t c0, int64_t n, float* U) {
    constexpr int64_t AHEAD = 16;  // channels to prefetch: the weights come from main memory
    const float* weight = a.packed + panel * 9 * a.C * P;
    for (int64_t c = 0; c < n; c++)
        for (int v = 0; v < NV; v++) {
            vec g[9], half[SIDE * 3], u[POINTS];
            for (int t = 0; t < 9; t++) {
                const float* at = weight + ((c0 + c) * a.channel_stride + t * a.tap_stride) * P + v * VL;
                __builtin_prefetch(at + AHEAD * a.channel_stride * P, 0, 2);
                g[t] = load<vec>(at);
            }
            for (int x = 0; x < 3; x++) weight_points(g + x, 3, half + x, 3);
            for (int y = 0; y < SIDE; y++) weight_points(half + y * 3, 1, u + y * SIDE, 1);
            for (int p = 0; p < POINTS; p++) store(U + p * U_stride(n) + c * P + v * VL, u[p]);
        }
}

constexpr int64_t CB = 4 * VL;  // channels transformed at a time

// Tiles tx0..tx1 of tile row ty of sample n, all channels: modulated pixels, then V[p][tile][C].
// line_room: SIDE * ((tx1 - tx0) * TILE + 2) * CB floats
static void transform_input(const Conv& a, int64_t n, int64_t ty, int64_t tx0, int64_t tx1, float* V, int64_t V_stride,
                            float* line_room) {
    int64_t H = a.H(), W = a.W(), width = (tx1 - tx0) * TILE + 2, left = tx0 * TILE - 1;
    int64_t from = std::max<int64_t>(0, -left), to = std::min(width, W - left);  // the part inside the map
    const int32_t* map = a.rows ? a.row + n / a.samples * H * W : nullptr;
    for (int64_t c0 = 0; c0 < a.C; c0 += CB) {
        int64_t C = std::min(CB, a.C - c0);
        for (int i = 0; i < SIDE; i++) {
            int64_t y = ty * TILE + i - 1;
            float* line = line_room + i * width * CB;
            if (y < 0 || y >= H) {
                std::fill(line, line + width * CB, 0.0f);
                continue;
            }
            std::fill(line, line + from * CB, 0.0f);
            std::fill(line + to * CB, line + width * CB, 0.0f);
            const float* source = a.x + (n * a.h + y / a.up) * a.w * a.C + c0;
            for (int64_t x = from; x < to; x++) {
                const float* pixel = source + (left + x) / a.up * a.C;
                if (map)
                    modulate(pixel, a.rows + (int64_t)map[y * W + left + x] * 2 * a.C + c0, a.C, C, a.leak,
                             line + x * CB);
                else
                    std::memcpy(line + x * CB, pixel, C * sizeof(float));
            }
        }
        for (int64_t tile = 0; tile < tx1 - tx0; tile++)
            over_channels(C, [&](int64_t c, auto one) {
                using T = decltype(one);
                T d[SIDE], half[POINTS], full[SIDE];
                for (int x = 0; x < SIDE; x++) {
                    for (int y = 0; y < SIDE; y++) d[y] = load<T>(line_room + (y * width + tile * TILE + x) * CB + c);
                    input_points(d, 1, half + x, SIDE);
                }
                for (int y = 0; y < SIDE; y++) {
                    input_points(half + y * SIDE, 1, full, 1);
                    for (int x = 0; x < SIDE; x++)
                        store(V + (y * SIDE + x) * V_stride + tile * (a.C + PAD) + c0 + c, full[x]);
                }
            });
    }
}

// Tiles tx0..tx1 of tile row ty of sample n, one panel: M[p][tile][P] to pixels, bias and residual added
static void transform_output(const Conv& a, int64_t n, int64_t ty, int64_t tx0, int64_t tx1, int64_t panel,
                             const float* M, int64_t M_stride) {
    int64_t H = a.H(), W = a.W(), rh = H / a.residual_up, rw = W / a.residual_up, o = panel * P;
    for (int64_t tx = tx0; tx < tx1; tx++, M += P) {
        int64_t ny = std::min<int64_t>(TILE, H - ty * TILE), nx = std::min<int64_t>(TILE, W - tx * TILE);
        over_channels(std::min<int64_t>(P, a.O - o), [&](int64_t c, auto one) {
            using T = decltype(one);
            T in[SIDE], half[TILE * SIDE], full[TILE];
            for (int x = 0; x < SIDE; x++) {
                for (int y = 0; y < SIDE; y++) in[y] = load<T>(M + (y * SIDE + x) * M_stride + c);
                output_values(in, 1, half + x, SIDE);
            }
            T bias = load<T>(a.bias + o + c);
            for (int y = 0; y < ny; y++) {
                output_values(half + y * SIDE, 1, full, 1);
                int64_t Y = ty * TILE + y;
                float* to = a.out + ((n * H + Y) * W + tx * TILE) * a.O + o + c;
                for (int x = 0; x < nx; x++) {
                    T v = full[x] + bias;
                    if (a.residual)
                        v += load<T>(a.residual +
                                     ((n * rh + Y / a.residual_up) * rw + (tx * TILE + x) / a.residual_up) * a.O + o + c);
                    store(to + x * a.O, v);
                }
            }
        });
    }
}

// How the work is divided, and its working memory in floats: shared, and per thread.
//
// Small weights are transformed once; then each thread takes tiles through all steps.
// Large weights would be four times as large when transformed: all threads transform the input of some tile rows, then
// each takes panels and transforms their weights a few channels at a time, so that these stay in its cache.
struct Plan {
    bool small;
    int64_t tiles;  // of a thread, or of a chunk of tile rows
    int64_t parts;  // of a tile row
    int64_t rows;  // tile rows in a chunk
    int64_t V, M, U, lines;

    explicit Plan(const Conv& a) {
        int64_t weights = a.C * a.panels() * P;
        small = weights <= (a.N * a.across() * a.down() < MANY_TILES ? TINY : SMALL);
        parts = small ? std::max<int64_t>(1, (a.across() * a.C * POINTS + V_ROOM - 1) / V_ROOM) : 1;
        parts = std::min(parts, a.across());
        rows = small ? 1 : std::max<int64_t>(1, std::min(TILES / a.across(), a.N * a.down()));
        tiles = small ? (a.across() + parts - 1) / parts : rows * a.across();
        V = POINTS * V_stride(a), M = POINTS * M_stride();
        U = POINTS * (small ? a.panels() * U_stride(a.C) : U_stride(std::min(a.C, CHANNELS)));
        lines = SIDE * ((small ? tiles : a.across()) * TILE + 2) * CB;
    }
    int64_t V_stride(const Conv& a) const { return tiles * (a.C + PAD) + PAD; }
    int64_t M_stride() const { return tiles * P + PAD; }
    int64_t shared() const { return small ? U : V; }
    int64_t own() const { return small ? V + M + lines : M + U + lines; }

    // TINY: transformed weights fit in a thread's cache; up to SMALL they are worth reading again for many tiles
    static constexpr int64_t TINY = 1 << 12, SMALL = 1 << 16, MANY_TILES = 256, V_ROOM = 1 << 17, TILES = 64, CHANNELS = 128;
};

// Floats of working memory that spade_conv needs.
extern "C" int64_t spade_conv_scratch(const Conv* a, int threads) {
    Plan plan(*a);
    return plan.shared() + threads * plan.own();
}

static void conv_small(const Conv& a, const Plan& plan, float* U, float* own_room, int threads) {
    int64_t panels = a.panels(), across = a.across(), down = a.down(), tasks = a.N * down * plan.parts;
    int64_t V_stride = plan.V_stride(a), M_stride = plan.M_stride();
#pragma omp parallel num_threads(threads)
    {
        float *V = own_room + omp_get_thread_num() * plan.own(), *M = V + plan.V, *lines = M + plan.M;
#pragma omp for
        for (int64_t j = 0; j < panels; j++)
            transform_weight(a, j, 0, a.C, U + j * POINTS * U_stride(a.C));
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < tasks; task++) {
            int64_t i = task / plan.parts, part = task % plan.parts;
            int64_t tx0 = across * part / plan.parts, tx1 = across * (part + 1) / plan.parts;
            transform_input(a, i / down, i % down, tx0, tx1, V, V_stride, lines);
            for (int64_t j = 0; j < panels; j++) {
                for (int64_t p = 0; p < POINTS; p++)
                    panel_product(V + p * V_stride, a.C + PAD, tx1 - tx0, a.C, U + (j * POINTS + p) * U_stride(a.C),
                                  M + p * M_stride, P, P, false);
                transform_output(a, i / down, i % down, tx0, tx1, j, M, M_stride);
            }
        }
    }
}

static void conv_large(const Conv& a, const Plan& plan, float* V, float* own_room, int threads) {
    int64_t panels = a.panels(), across = a.across(), down = a.down(), tile_rows = a.N * down;
    int64_t V_stride = plan.V_stride(a), M_stride = plan.M_stride();
    int64_t groups = std::max<int64_t>(1, threads / panels);  // with few panels, threads share the tile rows
#pragma omp parallel num_threads(threads)
    {
        float *M = own_room + omp_get_thread_num() * plan.own(), *U = M + plan.M, *lines = U + plan.U;
        for (int64_t begin = 0; begin < tile_rows; begin += plan.rows) {
            int64_t end = std::min(tile_rows, begin + plan.rows);
#pragma omp for schedule(dynamic)
            for (int64_t i = begin; i < end; i++)
                transform_input(a, i / down, i % down, 0, across, V + (i - begin) * across * (a.C + PAD), V_stride,
                                lines);
#pragma omp for collapse(2) schedule(dynamic)
            for (int64_t j = 0; j < panels; j++)
                for (int64_t group = 0; group < groups; group++) {
                    int64_t first = begin + (end - begin) * group / groups;
                    int64_t last = begin + (end - begin) * (group + 1) / groups, tiles = (last - first) * across;
                    const float* own = V + (first - begin) * across * (a.C + PAD);
                    for (int64_t c0 = 0; c0 < a.C && tiles; c0 += plan.CHANNELS) {
                        int64_t n = std::min(plan.CHANNELS, a.C - c0);
                        transform_weight(a, j, c0, n, U);
                        for (int64_t p = 0; p < POINTS; p++)
                            panel_product(own + p * V_stride + c0, a.C + PAD, tiles, n, U + p * U_stride(n),
                                          M + p * M_stride, P, P, c0 > 0);
                    }
                    for (int64_t i = first; i < last; i++)
                        transform_output(a, i / down, i % down, 0, across, j, M + (i - first) * across * P, M_stride);
                }
        }
    }
}

// 3x3 convolution of leaky(up(x) * scale + shift), bias and residual added.
extern "C" void spade_conv(const Conv* a, float* scratch, int threads) {
    Plan plan(*a);
    (plan.small ? conv_small : conv_large)(*a, plan, scratch, scratch + plan.shared(), threads);
}

// 3x3 convolution of leaky(x) to few channels, channels first: x [N,h,w,C] -> out [N,O,h,w].
// packed: panels of [C, 9·O], tap by tap. scratch: spade_image_scratch floats per thread.
constexpr int64_t BAND = 8;
static int64_t image_panels(int64_t O) { return (9 * O + P - 1) / P; }
extern "C" int64_t spade_image_scratch(int64_t w, int64_t C, int64_t O) {
    return w * C + (BAND + 2) * (w + 2) * image_panels(O) * P;
}
extern "C" void spade_image(const float* x, int64_t N, int64_t h, int64_t w, int64_t C, float leak, const float* packed,
                            const float* bias, int64_t O, float* out, float* scratch, int threads) {
    int64_t bands = (h + BAND - 1) / BAND, panels = image_panels(O), wide = panels * P;
#pragma omp parallel num_threads(threads)
    {
        float *line = scratch + omp_get_thread_num() * spade_image_scratch(w, C, O), *products = line + w * C;
#pragma omp for collapse(2) schedule(dynamic)
        for (int64_t n = 0; n < N; n++)
            for (int64_t band = 0; band < bands; band++) {
                int64_t first = band * BAND, end = std::min(h, first + BAND);
                for (int64_t y = first - 1; y <= end; y++) {
                    float* to = &products[(y - first + 1) * (w + 2) * wide];
                    std::fill(to, to + (w + 2) * wide, 0.0f);
                    if (y < 0 || y >= h) continue;
                    const float* from = x + (n * h + y) * w * C;
                    for (int64_t i = 0; i < w * C; i++) line[i] = leaky(from[i], leak);
                    for (int64_t j = 0; j < panels; j++)
                        panel_product(line, C, w, C, packed + j * C * P, to + wide + j * P, wide, P);
                }
                for (int64_t o = 0; o < O; o++)
                    for (int64_t y = first; y < end; y++)
                        for (int64_t xx = 0; xx < w; xx++) {
                            float sum = bias[o];
                            for (int t = 0; t < 9; t++)
                                sum += products[((y - first + t / 3) * (w + 2) + xx + t % 3) * wide + t * O + o];
                            out[((n * O + o) * h + y) * w + xx] = sum;
                        }
            }
    }
}
