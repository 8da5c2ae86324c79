// Kernels of the generator's inference form (see native.py, which holds what each function is given).
//
// Plain C interface, no headers beyond the standard library: compiled once for each instruction set by setup.py.
// Feature maps are channels-last float32. Every row of a product is added up in one order, whatever the batch.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

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

// f(c, T{}) for channels 0..C: whole vectors, then one by one
template <class F> static inline void over_channels(int64_t C, F f) {
    int64_t c = 0;
    for (; c + VL <= C; c += VL) f(c, vec{});
    for (; c < C; c++) f(c, 0.0f);
}

// ---- products -------------------------------------------------------------------------------------------------

// acc += rows of A (R pointers, K values each) times K x P of a packed panel
template <int R> static inline void multiply(const float* const* a, int64_t K, const float* b, vec acc[][NV]) {
    vec s[R][NV];
    const float* p[R];
    for (int r = 0; r < R; r++) {
        p[r] = a[r];
        for (int v = 0; v < NV; v++) s[r][v] = acc[r][v];
    }
    for (int64_t k = 0; k < K; k++, b += P) {
        vec b0 = load<vec>(b), b1 = load<vec>(b + VL);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
            s[r][0] += p[r][k] * b0;
            s[r][1] += p[r][k] * b1;
        }
    }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < NV; v++) acc[r][v] = s[r][v];
}

typedef void (*Multiply)(const float* const*, int64_t, const float*, vec[][NV]);
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

static inline void put(float* c, const vec s[NV], int64_t columns) {
    if (columns >= P) {
        for (int v = 0; v < NV; v++) store(c + v * VL, s[v]);
    } else {
        std::memcpy(c, s, columns * sizeof(float));
    }
}

// C[rows, columns of one panel] = A[rows, K] x panel, A and C with row strides
static void panel_product(const float* a, int64_t a_stride, int64_t rows, int64_t K, const float* panel, float* c,
                          int64_t c_stride, int64_t columns) {
    int64_t blocks = (rows + MR - 1) / MR;
    for (int64_t i = 0; i < blocks; i++) {
        int64_t first = rows * i / blocks, n = rows * (i + 1) / blocks - first;
        const float* p[MR];
        vec s[MR][NV] = {};
        for (int64_t r = 0; r < n; r++) {
            p[r] = a + (first + r) * a_stride;
            // rows are too short for the hardware to see the next ones coming
            for (int64_t k = 0; k < K && i + 1 < blocks; k += 16) __builtin_prefetch(p[r] + n * a_stride + k);
        }
        TABLE.of[n](p, K, panel, s);
        for (int64_t r = 0; r < n; r++) put(c + (first + r) * c_stride, s[r], columns);
    }
}

extern "C" int spade_panel() { return P; }

// weight [K,N] -> panels [ceil(N/P), K, P], zeros behind the last column
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

// The k x k windows of values [M,h,w], numbered from 1 on: numbers [M,h,w], windows [n,k*k] of values, 0 outside.
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

// codes [M,h,w] -> windows of codes, windows of windows, row at each pixel; counts of both in counts[2]
extern "C" void spade_windows(const int32_t* codes, int64_t M, int64_t h, int64_t w, int k, int32_t* windows,
                              int32_t* windows_of_windows, int32_t* row, int64_t* counts) {
    std::vector<int32_t> numbers(M * h * w);
    counts[0] = number_windows(codes, M, h, w, k, numbers.data(), windows);
    counts[1] = number_windows(numbers.data(), M, h, w, k, row, windows_of_windows);
    for (int64_t i = 0; i < M * h * w; i++) row[i]--;
}

// ---- tables ---------------------------------------------------------------------------------------------------

// hidden[1+i] = relu(bias + sum over taps of the planes that codes[i] turns on); hidden[0] = 0
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
// scratch: taps * (n3+1) * P floats for each panel in work, `at_once` of them; none where each row is multiplied whole.
extern "C" void spade_rows(const float* hidden, int64_t n3, const int32_t* windows, int64_t n5, int taps, int64_t K,
                           const float* packed, const float* bias, int64_t N, float* rows, float* scratch,
                           int64_t at_once, int threads) {
    int64_t panels = (N + P - 1) / P, height = n3 + 1, blocks = (n5 + 255) / 256;
    if (!scratch) {
#pragma omp parallel for collapse(2) schedule(dynamic) num_threads(threads)
        for (int64_t j = 0; j < panels; j++)
            for (int64_t block = 0; block < blocks; block++)
                for (int64_t first = block * 256, end = std::min(n5, first + 256); first < end; first += MR) {
                    int64_t n = std::min<int64_t>(MR, end - first);
                    vec s[MR][NV] = {};
                    for (int t = 0; t < taps; t++) {
                        const float* p[MR];
                        for (int64_t r = 0; r < n; r++) p[r] = hidden + windows[(first + r) * taps + t] * K;
                        TABLE.of[n](p, K, packed + (j * taps + t) * K * P, s);
                    }
                    int64_t columns = std::min<int64_t>(P, N - j * P);
                    for (int64_t r = 0; r < n; r++) {
                        float* out = rows + (first + r) * N + j * P;
                        put(out, s[r], columns);
                        for (int64_t c = 0; c < columns; c++) out[c] += bias[j * P + c];
                    }
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
                    put(rows + i * N + (base + j) * P, s, columns);
                }
            }
    }
}

constexpr int64_t PAD = 16;  // floats behind each row and each point: strides of 4 KiB would share cache sets

// ---- feature maps ---------------------------------------------------------------------------------------------

// leaky(x * scale + shift) of C channels; row holds all scales, then all shifts, of C_all channels
static inline void modulate(const float* x, const float* row, int64_t C_all, int64_t C, float leak, float* out) {
    over_channels(C, [&](int64_t c, auto one) {
        using T = decltype(one);
        store(out + c, leaky(load<T>(x + c) * load<T>(row + c) + load<T>(row + C_all + c), leak));
    });
}

// 1x1 convolution without bias of up(x) * scale + shift. x [N,h,w,C] -> out [N,h*up,w*up,O].
// Pixels that upsampling made equal and whose row is the same are multiplied once.
extern "C" void spade_shortcut(const float* x, int64_t N, int64_t h, int64_t w, int64_t C, int up, const float* rows,
                               const int32_t* row, int64_t samples, const float* packed, int64_t O, float* out,
                               int threads) {
    int64_t H = h * up, W = w * up, pixels = N * h * w, panels = (O + P - 1) / P;
    int64_t room = std::max<int64_t>(4 * MR, (1 << 16) / C / MR * MR);
    int64_t parts = std::min<int64_t>(pixels, threads * 8);
#pragma omp parallel num_threads(threads)
    {
        std::vector<float> in(room * (C + PAD)), product(room * O);
        std::vector<int64_t> target(room * 4), source(room * 4);
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
                        panel_product(in.data(), C + PAD, n_in, C, packed + j * C * P, &product[j * P], O,
                                      std::min<int64_t>(P, O - j * P));
                    for (int64_t k = 0; k < n_out; k++)
                        std::memcpy(out + target[k] * O, &product[source[k] * O], O * sizeof(float));
                    n_in = n_out = 0;
                }
            }
        }
    }
}

// Winograd's minimal filtering F(m x m, 3x3) (Lavin and Gray, CVPR 2016), m = 2 and 4.
// For m = 4 the points are 0, ±1/√2, ±√2 and infinity: about half the rounding error of 0, ±1, ±2.
template <int m> struct Filter;
template <> struct Filter<2> {
    template <class T> static inline void input(const T* d, int s, T* o, int t) {
        T a = d[0], b = d[s], c = d[2 * s], e = d[3 * s];
        o[0] = a - c, o[t] = b + c, o[2 * t] = c - b, o[3 * t] = b - e;
    }
    template <class T> static inline void output(const T* i, int s, T* o, int t) {
        o[0] = i[0] + i[s] + i[2 * s];
        o[t] = i[s] - i[2 * s] - i[3 * s];
    }
    template <class T> static void weight(const T* g, int s, T* o, int t) {
        T a = g[0], b = g[s], c = g[2 * s];
        o[0] = a, o[t] = (a + b + c) * 0.5, o[2 * t] = (a - b + c) * 0.5, o[3 * t] = c;
    }
};
constexpr double R2 = 1.41421356237309504880;
template <> struct Filter<4> {
    template <class T> static inline void input(const T* d, int s, T* o, int t) {
        constexpr float r = R2, q = R2 / 2;
        T a = d[0], b = d[s], c = d[2 * s], e = d[3 * s], f = d[4 * s], g = d[5 * s];
        T near = f - 2.0f * c, far = f - 0.5f * c;
        T odd_near = q * e - r * b, odd_far = r * e - q * b;
        o[0] = a - 2.5f * c + f;
        o[t] = near + odd_near, o[2 * t] = near - odd_near;
        o[3 * t] = far + odd_far, o[4 * t] = far - odd_far;
        o[5 * t] = b - 2.5f * e + g;
    }
    template <class T> static inline void output(const T* i, int s, T* o, int t) {
        constexpr float r = R2, q = R2 / 2, q3 = R2 / 4, r3 = 2 * R2;
        T near = i[s] + i[2 * s], far = i[3 * s] + i[4 * s], dnear = i[s] - i[2 * s], dfar = i[3 * s] - i[4 * s];
        o[0] = i[0] + near + far;
        o[t] = q * dnear + r * dfar;
        o[2 * t] = 0.5f * near + 2.0f * far;
        o[3 * t] = q3 * dnear + r3 * dfar + i[5 * s];
    }
    template <class T> static void weight(const T* g, int s, T* o, int t) {
        T a = g[0], b = g[s], c = g[2 * s];
        o[0] = a;
        // 1 / prod(p - q) over the other finite points: 2p²(p²-2) = -3/2 at ±1/√2, 2p²(p²-1/2) = 6 at ±√2
        T near = (a + c * 0.5) * (-2 / 3.0), odd_near = b * (-R2 / 3), far = (a + c * 2.0) * (1 / 6.0);
        T odd_far = b * (R2 / 6);
        o[t] = near + odd_near, o[2 * t] = near - odd_near;
        o[3 * t] = far + odd_far, o[4 * t] = far - odd_far;
        o[5 * t] = c;
    }
};

typedef double wide __attribute__((vector_size(VL * 4)));  // weights are transformed in float64

template <int m>
static void filter_weight(const float* weight, int64_t O, int64_t C, float* packed, int threads) {
    constexpr int n = m + 2, points = n * n, lanes = VL / 2;
    constexpr int64_t block = 16;  // input channels read at a time, one after the other in memory
    int64_t panels = (O + P - 1) / P, blocks = (C + block - 1) / block;
#pragma omp parallel for collapse(2) num_threads(threads)
    for (int64_t j = 0; j < panels; j++)
        for (int64_t b = 0; b < blocks; b++) {
            int64_t first = b * block, some = std::min(block, C - first);
            float read[P][block * 9] = {};
            for (int64_t i = 0; i < std::min<int64_t>(P, O - j * P); i++)
                std::memcpy(read[i], weight + ((j * P + i) * C + first) * 9, some * 9 * sizeof(float));
            for (int64_t c = 0; c < some; c++)
                for (int64_t i = 0; i < P; i += lanes) {
                    wide g[9], half[n * 3], u[points];
                    for (int t = 0; t < 9; t++)
                        for (int l = 0; l < lanes; l++) g[t][l] = read[i + l][c * 9 + t];
                    for (int x = 0; x < 3; x++) Filter<m>::weight(g + x, 3, half + x, 3);
                    for (int y = 0; y < n; y++) Filter<m>::weight(half + y * 3, 1, u + y * n, 1);
                    for (int p = 0; p < points; p++)
                        for (int l = 0; l < lanes; l++)
                            packed[((p * panels + j) * C + first + c) * P + i + l] = (float)u[p][l];
                }
        }
}

// weight [O,C,3,3] -> panels [(m+2)², ceil(O/P), C, P]
extern "C" void spade_filter_weight(const float* weight, int64_t O, int64_t C, int m, float* packed, int threads) {
    (m == 4 ? filter_weight<4> : filter_weight<2>)(weight, O, C, packed, threads);
}

struct Conv {
    const float* x;  // [N,h,w,C]
    int64_t N, h, w, C;
    int up;
    const float* rows;  // [n5,2C]
    const int32_t* row;  // [N/samples,H,W]
    int64_t samples;
    float leak;
    const float *packed, *bias;
    int64_t O;
    const float* residual;  // [N,H/residual_up,W/residual_up,O] or null; may be out itself
    int residual_up;
    float* out;  // [N,H,W,O]
};

constexpr int64_t CB = 4 * VL;  // channels that are transformed at a time

// One row of tiles of sample n, channels c0..c1: modulated pixels, then V[p][tile][C]
template <int m>
static void transform_input(const Conv& a, int64_t n, int64_t ty, int64_t c0, int64_t c1, float* V, int64_t tiles,
                            int64_t first, float* lines) {
    constexpr int k = m + 2;
    int64_t H = a.h * a.up, W = a.w * a.up, across = (W + m - 1) / m, C = c1 - c0, width = across * m + 2;
    const int32_t* map = a.row + n / a.samples * H * W;
    for (int i = 0; i < k; i++) {
        int64_t y = ty * m + i - 1;
        float* line = lines + i * width * CB;
        if (y < 0 || y >= H) {
            std::fill(line, line + width * CB, 0.0f);
            continue;
        }
        std::fill(line, line + CB, 0.0f);
        std::fill(line + (W + 1) * CB, line + width * CB, 0.0f);
        const float* source = a.x + (n * a.h + y / a.up) * a.w * a.C + c0;
        for (int64_t x = 0; x < W; x++)
            modulate(source + x / a.up * a.C, a.rows + (int64_t)map[y * W + x] * 2 * a.C + c0, a.C, C, a.leak,
                     line + (x + 1) * CB);
    }
    for (int64_t tx = 0; tx < across; tx++) {
        float* to = V + (first + tx) * (a.C + PAD) + c0;
        over_channels(C, [&](int64_t c, auto one) {
            using T = decltype(one);
            T d[k], half[k * k], full[k];
            for (int x = 0; x < k; x++) {
                for (int y = 0; y < k; y++) d[y] = load<T>(lines + (y * width + tx * m + x) * CB + c);
                Filter<m>::input(d, 1, half + x, k);
            }
            for (int y = 0; y < k; y++) {
                Filter<m>::input(half + y * k, 1, full, 1);
                for (int x = 0; x < k; x++) store(to + (y * k + x) * (tiles * (a.C + PAD) + PAD) + c, full[x]);
            }
        });
    }
}

// One row of tiles: M[p][tile][O] to pixels, bias and residual added
template <int m>
static void transform_output(const Conv& a, int64_t n, int64_t ty, const float* M, int64_t tiles, int64_t first) {
    constexpr int k = m + 2;
    int64_t H = a.h * a.up, W = a.w * a.up, across = (W + m - 1) / m;
    int64_t rh = H / a.residual_up, rw = W / a.residual_up;
    for (int64_t tx = 0; tx < across; tx++) {
        int64_t ny = std::min<int64_t>(m, H - ty * m), nx = std::min<int64_t>(m, W - tx * m);
        const float* from = M + (first + tx) * (a.O + PAD);
        over_channels(a.O, [&](int64_t c, auto one) {
            using T = decltype(one);
            T in[k], half[m * k], full[m];
            for (int x = 0; x < k; x++) {
                for (int y = 0; y < k; y++) in[y] = load<T>(from + (y * k + x) * (tiles * (a.O + PAD) + PAD) + c);
                Filter<m>::output(in, 1, half + x, k);
            }
            T bias = load<T>(a.bias + c);
            for (int y = 0; y < ny; y++) {
                Filter<m>::output(half + y * k, 1, full, 1);
                int64_t Y = ty * m + y;
                float* to = a.out + ((n * H + Y) * W + tx * m) * a.O + c;
                for (int x = 0; x < nx; x++) {
                    T v = full[x] + bias;
                    if (a.residual)
                        v += load<T>(a.residual +
                                     ((n * rh + Y / a.residual_up) * rw + (tx * m + x) / a.residual_up) * a.O + c);
                    store(to + x * a.O, v);
                }
            }
        });
    }
}

static int64_t tile_row_floats(int64_t W, int64_t C, int64_t O, int m) {
    return (m + 2) * (m + 2) * ((W + m - 1) / m * (C + O + 2 * PAD) + 2 * PAD);
}

template <int m> static void conv(const Conv& a, float* scratch, int64_t room, int threads) {
    constexpr int k = m + 2, points = k * k;
    int64_t H = a.h * a.up, W = a.w * a.up, across = (W + m - 1) / m, down = (H + m - 1) / m;
    int64_t tile_rows = a.N * down, panels = (a.O + P - 1) / P, channel_blocks = (a.C + CB - 1) / CB;
    int64_t at_once = std::max<int64_t>(1, room / tile_row_floats(W, a.C, a.O, m));
    int64_t chunks = (tile_rows + at_once - 1) / at_once;
    // a thread takes all panels of a point, whose tiles it has in its cache, where there are points enough
    int64_t parts = std::min<int64_t>(panels, (threads * 8 + points - 1) / points);
#pragma omp parallel num_threads(threads)
    {
        std::vector<float> lines(k * (across * m + 2) * CB);
        for (int64_t chunk = 0; chunk < chunks; chunk++) {
            int64_t begin = tile_rows * chunk / chunks, end = tile_rows * (chunk + 1) / chunks;
            int64_t tiles = (end - begin) * across;
            int64_t v_stride = tiles * (a.C + PAD) + PAD, m_stride = tiles * (a.O + PAD) + PAD;
            float *V = scratch, *M = scratch + points * v_stride;
#pragma omp for collapse(2) schedule(dynamic)
            for (int64_t i = begin; i < end; i++)
                for (int64_t b = 0; b < channel_blocks; b++)
                    transform_input<m>(a, i / down, i % down, b * CB, std::min(a.C, (b + 1) * CB), V, tiles,
                                       (i - begin) * across, lines.data());
#pragma omp for collapse(2) schedule(dynamic)
            for (int64_t p = 0; p < points; p++)
                for (int64_t part = 0; part < parts; part++)
                    for (int64_t j = panels * part / parts; j < panels * (part + 1) / parts; j++)
                        panel_product(V + p * v_stride, a.C + PAD, tiles, a.C, a.packed + (p * panels + j) * a.C * P,
                                      M + p * m_stride + j * P, a.O + PAD, std::min<int64_t>(P, a.O - j * P));
#pragma omp for schedule(dynamic)
            for (int64_t i = begin; i < end; i++)
                transform_output<m>(a, i / down, i % down, M, tiles, (i - begin) * across);
        }
    }
}

// Floats of scratch with which a row of tiles fits.
extern "C" int64_t spade_conv_scratch(int64_t W, int64_t C, int64_t O, int m) { return tile_row_floats(W, C, O, m); }

// 3x3 convolution of leaky(up(x) * scale + shift), bias and residual added.
extern "C" void spade_conv(const Conv* a, int m, float* scratch, int64_t room, int threads) {
    (m == 4 ? conv<4> : conv<2>)(*a, scratch, room, threads);
}

// 3x3 convolution of leaky(x) to few channels, channels first: x [N,h,w,C] -> out [N,O,h,w], 9·O <= P.
// packed: panel of [C, 9·O], tap by tap.
extern "C" void spade_image(const float* x, int64_t N, int64_t h, int64_t w, int64_t C, float leak, const float* packed,
                            const float* bias, int64_t O, float* out, int threads) {
    constexpr int64_t BAND = 8;
    int64_t bands = (h + BAND - 1) / BAND;
#pragma omp parallel num_threads(threads)
    {
        std::vector<float> line(w * C), products((BAND + 2) * (w + 2) * P);
#pragma omp for collapse(2) schedule(dynamic)
        for (int64_t n = 0; n < N; n++)
            for (int64_t band = 0; band < bands; band++) {
                int64_t first = band * BAND, end = std::min(h, first + BAND);
                for (int64_t y = first - 1; y <= end; y++) {
                    float* to = &products[(y - first + 1) * (w + 2) * P];
                    std::fill(to, to + (w + 2) * P, 0.0f);
                    if (y < 0 || y >= h) continue;
                    const float* from = x + (n * h + y) * w * C;
                    for (int64_t i = 0; i < w * C; i++) line[i] = leaky(from[i], leak);
                    panel_product(line.data(), C, w, C, packed, to + P, P, P);
                }
                for (int64_t o = 0; o < O; o++)
                    for (int64_t y = first; y < end; y++)
                        for (int64_t xx = 0; xx < w; xx++) {
                            float sum = bias[o];
                            for (int t = 0; t < 9; t++)
                                sum += products[((y - first + t / 3) * (w + 2) + xx + t % 3) * P + t * O + o];
                            out[((n * O + o) * h + y) * w + xx] = sum;
                        }
            }
    }
}
