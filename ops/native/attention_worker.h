// What one thread does: attention of a tile of queries, and the gradients of a tile of queries or of keys.
#pragma once

#include <limits>

#include "attention_kernels.h"

namespace segc {

// Hands out aligned parts of one block of memory; without a block it only counts.
struct Arena {
    char* base;
    int64_t used = 0;

    template <class T> T* take(int64_t count) {
        T* part = base ? reinterpret_cast<T*>(base + used) : nullptr;
        used += (count * int64_t(sizeof(T)) + kVectorBytes - 1) / kVectorBytes * kVectorBytes;
        return part;
    }
};

template <class T> struct Job {
    Layout<T> layout;
    bool backward;
    T scale;
    const T* bias;               // (heads, bias_rows, bias_columns), or null
    Strided q, k, v, grad;       // as the caller has them, ...
    void *out, *dq, *dk, *dv;
    decltype(&read_part<T, T>) read;
    decltype(&write_part<T, T>) write;
    T *planes_q, *planes_k, *planes_v, *planes_grad;  // ... and as planes, q scaled; q and grad in the backward pass only
    T *peak, *share, *slope;  // of a query, as one channel of a plane: greatest logit, 1 / sum of exponentials, sum of weights x their gradients

    int64_t bias_rows() const { return 2 * layout.shape.kernel[0] - 1; }
    int64_t bias_columns() const { return 2 * layout.shape.kernel[1] - 1; }
    int64_t bias_size() const { return bias ? layout.shape.heads * bias_rows() * bias_columns() : 0; }
    int64_t query(int64_t plane, int64_t row) const { return (plane * layout.rows + row) * layout.stride + layout.left; }
};

struct Run {
    int64_t first, count;  // rows of partners
    int64_t low, high;     // rows of the tile that see them
};

// Rows of a tile, and the rows of partners that each of them sees.
struct TileRows {
    int64_t first, count;
    int64_t begin[kTileRows], end[kTileRows];

    TileRows(const Reach& reach, int64_t row) : first(row), count(std::min<int64_t>(kTileRows, reach.length - row)) {
        for (int64_t r = 0; r < count; ++r) begin[r] = reach.begin(row + r), end[r] = reach.end(row + r);
    }

    // Calls f for runs of at most `most` partner rows, each run seen by the same rows of the tile.
    template <class F> void runs(int64_t most, F&& f) const {
        int64_t low = 0, high = 0;
        for (int64_t p = begin[0], stop; p < end[count - 1]; p = stop) {
            while (high < count && begin[high] <= p) ++high;
            while (end[low] <= p) ++low;
            stop = std::min({p + most, end[low], high < count ? begin[high] : end[count - 1]});
            f(Run{p, stop - p, low, high});
        }
    }
};

template <class T> class Worker {
    using V = Vec<T>;
    using I = IVec<T>;
    static constexpr int64_t W = Simd<T>::width;
    static constexpr int64_t kChunk = 4;  // rows of queries that a tile of keys takes at once

    // Where the weights of a tile's rows lie: that of partner row p and partner column j at offset[r] + p * columns + j.
    struct Cells {
        int64_t offset[kTileRows];
    };

    const Job<T>& job_;
    const Layout<T>& layout_;
    const AttentionShape& shape_;
    V *centres_, *more_centres_;  // (row of the tile, channel)
    V *weights_, *slopes_;        // a tile's weights and the gradients of its logits
    V *sums_, *more_sums_;        // (row of the tile, channel)
    V *bias_table_, *bias_sums_;  // (row of the bias, partner column): the bias of every lane, and its gradient
    T* bias_grad_;                // (heads, bias rows, bias columns)
    I* seen_;                     // (partner column)

    int64_t index_ = -1, column_ = -1;
    bool from_keys_ = false;
    Plane plane_{};
    int64_t base_ = 0, columns_ = 0;  // column of lane 0's first partner, and the number of partner columns
    bool plain_ = true;
    Bunched<T> bunched_{};

public:
    Worker(const Job<T>& job, Arena& arena) : job_(job), layout_(job.layout), shape_(job.layout.shape) {
        const int64_t window = shape_.kernel[0] * shape_.kernel[1];
        const int64_t most_columns = job.backward ? 2 * shape_.kernel[1] - 1 : shape_.kernel[1];
        const int64_t cells = kTileRows * (job.backward ? std::max(window, kChunk * most_columns) : window);
        const int64_t table = job.bias ? job.bias_rows() * most_columns : 0;
        for (V** part : {&centres_, &more_centres_, &sums_, &more_sums_}) *part = arena.take<V>(kTileRows * shape_.dim);
        weights_ = arena.take<V>(cells);
        slopes_ = arena.take<V>(job.backward ? cells : 0);
        bias_table_ = arena.take<V>(table);
        bias_sums_ = arena.take<V>(job.backward ? table : 0);
        bias_grad_ = arena.take<T>(job.backward ? job.bias_size() : 0);
        seen_ = arena.take<I>(most_columns);
    }

    void attend(int64_t plane, int64_t row, int64_t column) {
        enter(plane, column, false);
        const TileRows rows(reach(0), row);
        const Cells cells = query_cells(rows);
        read_centres(rows, job_.q, job_.scale, centres_);
        with_access([&](const auto& at) {
            rows.runs(shape_.kernel[0], [&](const Run& run) { products(at, rows, run, cells, centres_, job_.planes_k, bias_table_, weights_); });
            for (int64_t r = 0; r < rows.count; ++r) exponentiate(row + r, weights_ + r * window());
            clear(sums_);
            rows.runs(shape_.kernel[0], [&](const Run& run) { accumulate(at, run, cells, weights_, job_.planes_v, sums_); });
        });
        for (int64_t r = 0; r < rows.count; ++r) write(row + r, sums_ + r * shape_.dim, load<T>(of_query(job_.share, row + r)), job_.out);
    }

    void start_query_gradients() { std::fill_n(bias_grad_, job_.bias_size(), T(0)); }

    void query_gradient(int64_t plane, int64_t row, int64_t column) {
        enter(plane, column, false);
        const TileRows rows(reach(0), row);
        const Cells cells = query_cells(rows);
        read_centres(rows, job_.q, job_.scale, centres_);
        read_centres(rows, job_.grad, T(1), more_centres_);
        with_access([&](const auto& at) {
            rows.runs(shape_.kernel[0], [&](const Run& run) {
                products(at, rows, run, cells, centres_, job_.planes_k, bias_table_, weights_);
                products(at, rows, run, cells, more_centres_, job_.planes_v, nullptr, slopes_);
            });
            for (int64_t r = 0; r < rows.count; ++r) {
                exponentiate(row + r, weights_ + r * window());
                differentiate(row + r, weights_ + r * window(), slopes_ + r * window());
            }
            clear(sums_);
            rows.runs(shape_.kernel[0], [&](const Run& run) { accumulate(at, run, cells, slopes_, job_.planes_k, sums_); });
        });
        for (int64_t r = 0; r < rows.count; ++r) write(row + r, sums_ + r * shape_.dim, splat<T>(job_.scale), job_.dq);
        if (job_.bias) add_bias_gradient(rows, cells);
    }

    // The bias gradient of the tiles of queries this thread had, (heads, bias rows, bias columns).
    const T* finish_query_gradients() {
        flush_bias_gradient();
        index_ = -1;
        return bias_grad_;
    }

    void key_gradient(int64_t plane, int64_t row, int64_t column) {
        enter(plane, column, true);
        const TileRows rows(reach(0), row);
        read_centres(rows, job_.k, T(1), centres_);
        read_centres(rows, job_.v, T(1), more_centres_);
        clear(sums_);
        clear(more_sums_);
        rows.runs(kChunk, [&](const Run& run) {
            Cells cells;
            for (int64_t r = 0; r < kTileRows; ++r) cells.offset[r] = (r * kChunk - run.first) * columns_;
            products(Plain<T>{}, rows, run, cells, centres_, job_.planes_q, bias_table_, weights_);
            products(Plain<T>{}, rows, run, cells, more_centres_, job_.planes_grad, nullptr, slopes_);
            for (int64_t r = run.low; r < run.high; ++r)
                for (int64_t p = run.first; p < run.first + run.count; ++p) recall(p, weights_ + cells.offset[r] + p * columns_, slopes_ + cells.offset[r] + p * columns_);
            with_access([&](const auto& at) {
                accumulate(at, run, cells, slopes_, job_.planes_q, sums_);
                accumulate(at, run, cells, weights_, job_.planes_grad, more_sums_);
            });
        });
        for (int64_t r = 0; r < rows.count; ++r) {
            write(row + r, sums_ + r * shape_.dim, splat<T>(1), job_.dk);
            write(row + r, more_sums_ + r * shape_.dim, splat<T>(1), job_.dv);
        }
    }

private:
    Reach reach(int axis) const { return {axis == 0 ? plane_.rows : plane_.columns, shape_.kernel[axis], from_keys_}; }
    int64_t window() const { return shape_.kernel[0] * columns_; }
    T* of_query(T* values, int64_t row) const { return values + job_.query(index_, row) + column_; }
    void clear(V* sums) const { std::fill_n(sums, kTileRows * shape_.dim, V{}); }
    void write(int64_t row, const V* channels, V factor, void* to) const { job_.write(layout_, plane_, row, column_, channels, factor, to); }

    void read_centres(const TileRows& rows, const Strided& from, T factor, V* to) const {
        for (int64_t r = 0; r < rows.count; ++r)
            job_.read(layout_, plane_, from, rows.first + r, column_, factor, reinterpret_cast<T*>(to + r * shape_.dim), W);
    }

    Cells query_cells(const TileRows& rows) const {
        Cells cells;
        for (int64_t r = 0; r < rows.count; ++r) cells.offset[r] = r * window() - rows.begin[r] * columns_;
        return cells;
    }

    // Row of the bias for a centre and a partner: key - query + kernel - 1.
    int64_t bias_row(int64_t centre, int64_t partner) const { return (from_keys_ ? centre - partner : partner - centre) + shape_.kernel[0] - 1; }

    template <class F> void with_access(F&& f) const {
        if (plain_) f(Plain<T>{});
        else if (from_keys_) f(Masked<T>{seen_});
        else f(bunched_);
    }

    template <class Access>
    void products(const Access& at, const TileRows& rows, const Run& run, const Cells& cells, const V* centres, const T* partners, const V* bias, V* to) const {
        for (int64_t p = run.first; p < run.first + run.count; ++p) {
            const V* from[kTileRows];
            const V* init[kTileRows];
            V* out[kTileRows];
            for (int64_t r = run.low, i = 0; r < run.high; ++r, ++i) {
                from[i] = centres + r * shape_.dim;
                init[i] = job_.bias && bias ? bias + bias_row(rows.first + r, p) * columns_ : nullptr;
                out[i] = to + cells.offset[r] + p * columns_;
            }
            const T* row = partners + layout_.row_offset(index_, p) + base_;
            in_blocks(columns_, [&](int64_t j, int64_t size) {
                with_constant<kTileRows>(run.high - run.low, [&](auto R) {
                    with_constant<kBlock>(size, [&](auto N) { dots<T, R, N>(from, row, layout_.stride, shape_.dim, at, j, init, out); });
                });
            });
        }
    }

    template <class Access> void accumulate(const Access& at, const Run& run, const Cells& cells, const V* weights, const T* partners, V* to) const {
        const V* from[kTileRows];
        V* out[kTileRows];
        for (int64_t r = run.low, i = 0; r < run.high; ++r, ++i) {
            from[i] = weights + cells.offset[r] + run.first * columns_;
            out[i] = to + r * shape_.dim;
        }
        const T* first = partners + layout_.row_offset(index_, run.first) + base_;
        in_blocks(shape_.dim, [&](int64_t channel, int64_t size) {
            with_constant<kTileRows>(run.high - run.low, [&](auto R) {
                with_constant<kBlock>(size, [&](auto N) { sums<T, R, N>(from, first, layout_.row_size, layout_.stride, run.count, columns_, at, channel, out); });
            });
        });
    }

    // Logits of a row of queries to exponentials; keeps their peak and 1 / sum. A NaN is no peak, but gets into the sum.
    void exponentiate(int64_t row, V* cells) const {
        V peak = splat<T>(-std::numeric_limits<T>::infinity()), total{};
        for (int64_t i = 0; i < window(); ++i) peak = cells[i] > peak ? cells[i] : peak;
        for (int64_t i = 0; i < window(); ++i) total += cells[i] = exp<T>(cells[i] - peak);
        store<T>(of_query(job_.peak, row), peak);
        store<T>(of_query(job_.share, row), T(1) / total);
    }

    // Exponentials and gradients of the weights to gradients of the logits, w (g - sum w g).
    void differentiate(int64_t row, const V* cells, V* slopes) const {
        const V share = load<T>(of_query(job_.share, row));
        V total{};
        for (int64_t i = 0; i < window(); ++i) total += cells[i] * slopes[i];
        total *= share;
        for (int64_t i = 0; i < window(); ++i) slopes[i] = cells[i] * share * (slopes[i] - total);
        store<T>(of_query(job_.slope, row), total);
    }

    // The same two for one row of queries and a row of keys: logits to weights, gradients of weights to those of logits, zero out of sight.
    void recall(int64_t query_row, V* weights, V* slopes) const {
        const int64_t from = job_.query(index_, query_row) + base_;
        for (int64_t j = 0; j < columns_; ++j) {
            const V weight = exp<T>(weights[j] - load<T>(job_.peak + from + j)) * load<T>(job_.share + from + j);
            const V slope = weight * (slopes[j] - load<T>(job_.slope + from + j));
            weights[j] = (V)((I)weight & seen_[j]);
            slopes[j] = (V)((I)slope & seen_[j]);
        }
    }

    void add_bias_gradient(const TileRows& rows, const Cells& cells) {
        for (int64_t r = 0; r < rows.count; ++r)
            for (int64_t p = rows.begin[r]; p < rows.end[r]; ++p) {
                V* to = bias_sums_ + bias_row(rows.first + r, p) * columns_;
                for (int64_t j = 0; j < columns_; ++j) to[j] += slopes_[cells.offset[r] + p * columns_ + j];
            }
    }

    void flush_bias_gradient() {
        if (index_ < 0 || !job_.bias) return;
        T* to = bias_grad_ + plane_.head * job_.bias_rows() * job_.bias_columns();
        for (int64_t row = 0; row < job_.bias_rows(); ++row, to += job_.bias_columns())
            for (int64_t lane = 0; lane < std::min(W, plane_.columns - column_); ++lane)
                for (int64_t j = 0; j < columns_; ++j) to[bias_column(lane, j)] += bias_sums_[row * columns_ + j][lane];
    }

    // Column of the bias for the query in a lane and its key j.
    int64_t bias_column(int64_t lane, int64_t j) const {
        if (from_keys_) return column_ - base_ - j + shape_.kernel[1] - 1;
        const int64_t query = std::min(column_ + lane, plane_.columns - 1);
        return reach(1).begin(query) + j - query + shape_.kernel[1] - 1;
    }

    // Makes ready for the tiles of one column of a plane.
    void enter(int64_t index, int64_t column, bool from_keys) {
        if (index == index_ && column == column_) return;
        if (job_.backward && !from_keys) flush_bias_gradient();
        index_ = index, column_ = column, from_keys_ = from_keys, plane_ = layout_.plane(index);
        from_keys ? find_queries() : find_keys();
        if (!job_.bias) return;
        const T* head = job_.bias + plane_.head * job_.bias_rows() * job_.bias_columns();
        for (int64_t row = 0; row < job_.bias_rows(); ++row, head += job_.bias_columns())
            for (int64_t j = 0; j < columns_; ++j)
                for (int64_t lane = 0; lane < W; ++lane) bias_table_[row * columns_ + j][lane] = head[bias_column(lane, j)];
        if (job_.backward) std::fill_n(bias_sums_, job_.bias_rows() * columns_, V{});
    }

    void find_keys() {
        base_ = reach(1).begin(column_), columns_ = shape_.kernel[1], plain_ = true;
        for (int64_t lane = 0; lane < W; ++lane) {
            bunched_.lanes[lane] = reach(1).begin(std::min(column_ + lane, plane_.columns - 1)) - base_;
            plain_ &= column_ + lane >= plane_.columns || bunched_.lanes[lane] == lane;
        }
    }

    // Queries as offsets from the key, from the least that a lane needs to the greatest.
    void find_queries() {
        const Reach queries = reach(1);
        const int64_t lanes = std::min(W, plane_.columns - column_);
        int64_t least = 0, most = 0;
        for (int64_t key = column_; key < column_ + lanes; ++key) {
            least = std::min(least, queries.begin(key) - key);
            most = std::max(most, queries.end(key) - 1 - key);
        }
        base_ = column_ + least, columns_ = most - least + 1, plain_ = true;
        for (int64_t j = 0; j < columns_; ++j)
            for (int64_t lane = 0; lane < W; ++lane) {
                const int64_t key = column_ + lane, query = key + least + j;
                const bool seen = lane < lanes && queries.begin(key) <= query && query < queries.end(key);
                seen_[j][lane] = seen ? -1 : 0;
                plain_ &= seen || lane >= lanes;
            }
    }
};

}  // namespace segc
