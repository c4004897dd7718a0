#include "bench/ceiling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>

namespace abacus::bench {
namespace {

constexpr uint32_t kIdle = UINT32_MAX;  // as Move::shape
constexpr double kPrecision = 1e-9;     // of worth per time, relative
constexpr int kMostSteps = 1000;        // of Howard's algorithm, which takes some ten

// What one service does in a round.
struct Move {
  uint32_t next = 0;  // state of the service after it
  uint32_t shape = kIdle;
  OperatorRange range{};
  double worth_ns = 0;
};

// The part of the graph that is one service's: its states, and the moves of each. State 0: no job stands anywhere.
struct Side {
  std::vector<std::vector<Move>> moves;
  double worth_of_row_ns = 0;
  uint64_t move_count = 0;
};

Result<Side> MakeSide(const LatencyModel& latency, const CeilingService& service) {
  const auto bad = [](const std::string& what) { return Error(StatusCode::kInvalidArgument, what); };
  if (service.shapes.empty()) return bad("a service has no shapes to run");
  Side side;
  side.worth_of_row_ns = std::numeric_limits<double>::max();
  std::vector<uint32_t> first_state;  // of each shape: at its first inner cut
  uint32_t states = 1;
  for (const CeilingShape& shape : service.shapes) {
    if (shape.cuts.size() < 2 || shape.cuts.front() != 0 || shape.rows == 0) {
      return bad("a shape needs rows, and cuts from 0 to its end");
    }
    const uint64_t whole_ns = latency.PredictNs({service.id, shape.bucket, 0, shape.cuts.back()});
    if (whole_ns == 0) return bad("nothing is known of the time of a shape");
    side.worth_of_row_ns = std::min(side.worth_of_row_ns, static_cast<double>(whole_ns) / shape.rows);
    first_state.push_back(states);
    states += static_cast<uint32_t>(shape.cuts.size() - 2);
  }
  side.moves.resize(states);
  for (uint32_t state = 0; state < states; ++state) side.moves[state].push_back({.next = state});
  for (uint32_t s = 0; s < service.shapes.size(); ++s) {
    const CeilingShape& shape = service.shapes[s];
    const auto ends = static_cast<uint32_t>(shape.cuts.size() - 1);
    // What a range is worth: by solo time. Any other split would give every cycle the same.
    std::vector<double> done(ends + 1, 0);
    for (uint32_t c = 1; c <= ends; ++c) {
      done[c] = static_cast<double>(latency.PredictNs({service.id, shape.bucket, 0, shape.cuts[c]}));
    }
    const double scale = side.worth_of_row_ns * shape.rows / done[ends];
    const auto state_at = [&](uint32_t cut) { return cut == 0 || cut == ends ? 0 : first_state[s] + cut - 1; };
    for (uint32_t from = 0; from < ends; ++from) {
      for (uint32_t to = from + 1; to <= ends; ++to) {
        side.moves[state_at(from)].push_back({.next = state_at(to),
                                              .shape = s,
                                              .range = {service.id, shape.bucket, shape.cuts[from], shape.cuts[to]},
                                              .worth_ns = (done[to] - done[from]) * scale});
      }
    }
  }
  for (const auto& moves : side.moves) side.move_count += moves.size();
  return side;
}

// All states of all services together, and every round that can follow each.
class Graph {
 public:
  struct Round {
    float worth_ns = 0;
    uint32_t time_ns = 0;  // 0: nobody runs, which is no round
  };

  explicit Graph(std::vector<Side> sides) : sides_(std::move(sides)) {
    for (const Side& side : sides_) states_ *= side.moves.size();
  }

  Status Predict(const LatencyModel& latency) {
    begin_.reserve(states_ + 1);
    begin_.push_back(0);
    std::vector<OperatorRange> group, choices;
    std::vector<Prediction> predictions;
    for (uint32_t state = 0; state < states_; ++state) {
      const std::vector<uint32_t> at = Split(state);
      // All moves of the last service beside each choice of the others: one call.
      const std::vector<Move>& last = sides_.back().moves[at.back()];
      const uint64_t others = Count(at) / last.size();
      choices.clear();
      for (size_t i = 1; i < last.size(); ++i) choices.push_back(last[i].range);
      predictions.resize(choices.size());
      for (uint64_t other = 0; other < others; ++other) {
        double worth_ns = 0;
        group.clear();
        ForEachMove(at, other * last.size(), [&](size_t side, const Move& move) {
          if (side + 1 == sides_.size() || move.shape == kIdle) return;
          group.push_back(move.range);
          worth_ns += move.worth_ns;
        });
        const uint64_t alone_ns = group.empty() ? 0 : latency.PredictNs(group);
        if (!choices.empty()) latency.PredictChoices(group, choices, predictions);
        for (size_t i = 0; i < last.size(); ++i) {
          const uint64_t time_ns = i == 0 ? alone_ns : predictions[i - 1].ns;
          if ((i > 0 || !group.empty()) && (time_ns == 0 || time_ns > UINT32_MAX)) {
            return {StatusCode::kInvalidArgument, "a group has no prediction, or one of more than 4 s"};
          }
          rounds_.push_back({static_cast<float>(worth_ns + last[i].worth_ns), static_cast<uint32_t>(time_ns)});
        }
      }
      begin_.push_back(rounds_.size());
    }
    return Status::Ok();
  }

  size_t states() const { return states_; }
  size_t size() const { return rounds_.size(); }
  // Rounds of a state: [begin(state), begin(state + 1)).
  uint64_t begin(size_t state) const { return begin_[state]; }
  const Round& round(uint64_t index) const { return rounds_[index]; }
  uint32_t Next(uint32_t state, uint64_t index) const {
    uint64_t next = 0;
    ForEachMove(Split(state), index - begin_[state],
                [&](size_t side, const Move& move) { next = next * sides_[side].moves.size() + move.next; });
    return static_cast<uint32_t>(next);
  }
  template <class Each>  // (side, move) of what the services do in a round
  void ForEachMoveOf(uint32_t state, uint64_t index, const Each& each) const {
    ForEachMove(Split(state), index - begin_[state], each);
  }
  // Calls each(index, next state) for all rounds of a state, without a division each.
  template <class Each>
  void ForEachRound(uint32_t state, const Each& each) const {
    uint64_t index = begin_[state];
    Walk(Split(state), 0, 0, &index, each);
  }

 private:
  // Where each service stands; the last one changes fastest.
  std::vector<uint32_t> Split(uint64_t state) const {
    std::vector<uint32_t> at(sides_.size());
    for (size_t i = sides_.size(); i-- > 0;) {
      at[i] = static_cast<uint32_t>(state % sides_[i].moves.size());
      state /= sides_[i].moves.size();
    }
    return at;
  }
  uint64_t Count(const std::vector<uint32_t>& at) const {
    uint64_t count = 1;
    for (size_t i = 0; i < sides_.size(); ++i) count *= sides_[i].moves[at[i]].size();
    return count;
  }
  template <class Each>
  void ForEachMove(const std::vector<uint32_t>& at, uint64_t number, const Each& each) const {
    uint64_t count = Count(at);
    for (size_t i = 0; i < sides_.size(); ++i) {
      const std::vector<Move>& moves = sides_[i].moves[at[i]];
      count /= moves.size();
      each(i, moves[number / count]);
      number %= count;
    }
  }
  template <class Each>
  void Walk(const std::vector<uint32_t>& at, size_t side, uint64_t next, uint64_t* index, const Each& each) const {
    for (const Move& move : sides_[side].moves[at[side]]) {
      const uint64_t then = next * sides_[side].moves.size() + move.next;
      if (side + 1 < sides_.size()) {
        Walk(at, side + 1, then, index, each);
      } else {
        each((*index)++, static_cast<uint32_t>(then));
      }
    }
  }

  const std::vector<Side> sides_;
  size_t states_ = 1;
  std::vector<uint64_t> begin_;
  std::vector<Round> rounds_;
};

// Howard's algorithm for the largest ratio of worth to time over all cycles. Every state can be reached from every
// other one: all jobs can run to their ends, and begin up to any cut.
class Howard {
 public:
  explicit Howard(const Graph& graph)
      : graph_(graph), chosen_(graph.states()), next_(graph.states()), potential_(graph.states(), 0) {}

  // The ratio, and in *cycle the states along a cycle that has it.
  Result<double> Solve(std::vector<uint32_t>* cycle) {
    for (uint32_t state = 0; state < graph_.states(); ++state) {
      double best = -1;
      graph_.ForEachRound(state, [&](uint64_t index, uint32_t next) {
        const Graph::Round& round = graph_.round(index);
        if (round.time_ns == 0 || round.worth_ns <= best * round.time_ns) return;
        best = static_cast<double>(round.worth_ns) / round.time_ns;
        Choose(state, index, next);
      });
    }
    for (int step = 0; step < kMostSteps; ++step) {
      const double ratio = BestCycle(cycle);
      SetPotentials(cycle->front(), ratio);
      if (!Improve(ratio)) return ratio;
    }
    return Error(StatusCode::kInternal, "the search for the best cycle does not end");
  }
  uint64_t chosen(uint32_t state) const { return chosen_[state]; }

 private:
  void Choose(uint32_t state, uint64_t index, uint32_t next) {
    chosen_[state] = index;
    next_[state] = next;
  }
  double Gain(uint32_t state, double ratio) const {
    const Graph::Round& round = graph_.round(chosen_[state]);
    return round.worth_ns - ratio * round.time_ns;
  }

  // Of the cycles that the chosen rounds form, one for each connected part.
  double BestCycle(std::vector<uint32_t>* cycle) {
    std::vector<uint32_t> seen(graph_.states(), 0);  // by which walk; 0: none yet
    double best = -1;
    for (uint32_t start = 0; start < graph_.states(); ++start) {
      uint32_t state = start;
      for (; seen[state] == 0; state = next_[state]) seen[state] = start + 1;
      if (seen[state] != start + 1) continue;  // came to what was walked before
      double worth_ns = 0, time_ns = 0;
      std::vector<uint32_t> states;
      for (uint32_t at = state; states.empty() || at != state; at = next_[at]) {
        states.push_back(at);
        worth_ns += graph_.round(chosen_[at]).worth_ns;
        time_ns += graph_.round(chosen_[at]).time_ns;
      }
      if (worth_ns > best * time_ns) {
        best = worth_ns / time_ns;
        *cycle = std::move(states);
      }
    }
    return best;
  }

  // Of all states whose chosen rounds lead to `anchor`, by what is gained on the way there; the others keep theirs.
  void SetPotentials(uint32_t anchor, double ratio) {
    const size_t count = graph_.states();
    std::vector<uint32_t> begin(count + 1, 0), before(count);
    for (const uint32_t next : next_) ++begin[next + 1];
    for (size_t i = 0; i < count; ++i) begin[i + 1] += begin[i];
    std::vector<uint32_t> fill(begin.begin(), begin.end() - 1);
    for (uint32_t state = 0; state < count; ++state) before[fill[next_[state]]++] = state;
    std::vector<uint32_t> todo = {anchor};
    std::vector<bool> done(count, false);
    done[anchor] = true;
    while (!todo.empty()) {
      const uint32_t state = todo.back();
      todo.pop_back();
      for (uint32_t i = begin[state]; i < begin[state + 1]; ++i) {
        const uint32_t earlier = before[i];
        if (done[earlier]) continue;
        done[earlier] = true;
        potential_[earlier] = potential_[state] + Gain(earlier, ratio);
        todo.push_back(earlier);
      }
    }
  }

  // Chooses rounds that gain more. False: there are none, so no cycle has a higher ratio.
  bool Improve(double ratio) {
    bool improved = false;
    for (uint32_t state = 0; state < graph_.states(); ++state) {
      double best = potential_[state];
      graph_.ForEachRound(state, [&](uint64_t index, uint32_t next) {
        const Graph::Round& round = graph_.round(index);
        if (round.time_ns == 0) return;
        const double gain = round.worth_ns - ratio * round.time_ns + potential_[next];
        if (gain <= best + kPrecision * round.time_ns) return;
        best = gain;
        Choose(state, index, next);
        improved = true;
      });
      potential_[state] = best;
    }
    return improved;
  }

  const Graph& graph_;
  std::vector<uint64_t> chosen_;  // round of each state
  std::vector<uint32_t> next_;    // and where it leads
  std::vector<double> potential_;
};

}  // namespace

uint64_t CeilingRounds(std::span<const CeilingService> services) {
  uint64_t rounds = 1;
  for (const CeilingService& service : services) {
    uint64_t moves = 1;  // to stay idle with no job
    for (const CeilingShape& shape : service.shapes) {
      const uint64_t ends = shape.cuts.empty() ? 0 : shape.cuts.size() - 1;
      moves += ends * (ends + 1) / 2 + (ends > 0 ? ends - 1 : 0);
    }
    if (rounds > UINT64_MAX / moves) return UINT64_MAX;
    rounds *= moves;
  }
  return rounds;
}

Result<Ceiling> FindCeiling(const LatencyModel& latency, std::span<const CeilingService> services,
                            uint64_t most_rounds) {
  if (services.empty()) return Error(StatusCode::kInvalidArgument, "there are no services");
  if (const uint64_t rounds = CeilingRounds(services); rounds > most_rounds) {
    return Error(StatusCode::kInvalidArgument, "the search would look at " + std::to_string(rounds) +
                                                   " rounds, more than " + std::to_string(most_rounds) +
                                                   "; take fewer cuts, batch sizes or services");
  }
  Ceiling ceiling;
  std::vector<Side> sides;
  for (const CeilingService& service : services) {
    auto side = MakeSide(latency, service);
    if (!side) return Error(side.error());
    ceiling.worth_of_row_ns.push_back(side->worth_of_row_ns);
    sides.push_back(std::move(*side));
  }
  Graph graph(std::move(sides));
  ABACUS_RETURN_IF_ERROR(graph.Predict(latency));
  Howard howard(graph);
  std::vector<uint32_t> cycle;
  const auto ratio = howard.Solve(&cycle);
  if (!ratio) return Error(ratio.error());
  ceiling.worth_per_time = *ratio;
  ceiling.states = graph.states();
  ceiling.rounds = graph.size();

  double time_ns = 0;
  std::vector<double> worth_ns(services.size(), 0);
  for (const uint32_t state : cycle) {
    const uint64_t index = howard.chosen(state);
    CeilingRound& round = ceiling.cycle.emplace_back();
    round.predicted_ns = graph.round(index).time_ns;
    time_ns += static_cast<double>(round.predicted_ns);
    graph.ForEachMoveOf(state, index, [&](size_t side, const Move& move) {
      if (move.shape == kIdle) return;
      round.ranges.push_back(move.range);
      worth_ns[side] += move.worth_ns;
    });
  }
  for (size_t s = 0; s < services.size(); ++s) {
    ceiling.rows_per_s.push_back(worth_ns[s] / ceiling.worth_of_row_ns[s] / time_ns * 1e9);
  }
  return ceiling;
}

std::vector<uint32_t> EvenCuts(const LatencyModel& latency, ServiceId service, uint32_t bucket,
                               std::span<const uint32_t> cuts, uint32_t intervals) {
  std::vector<uint32_t> even = {0};
  const uint32_t operators = cuts.back();
  const auto whole_ns = static_cast<double>(latency.PredictNs({service, bucket, 0, operators}));
  for (uint32_t i = 1; i < intervals; ++i) {
    const double wanted_ns = whole_ns * i / intervals;
    uint32_t best = 0;
    double best_ns = std::numeric_limits<double>::max();
    for (const uint32_t cut : cuts) {
      if (cut == 0 || cut == operators) continue;
      const double off_ns = std::abs(static_cast<double>(latency.PredictNs({service, bucket, 0, cut})) - wanted_ns);
      if (off_ns < best_ns) {
        best = cut;
        best_ns = off_ns;
      }
    }
    if (best > even.back()) even.push_back(best);
  }
  even.push_back(operators);
  return even;
}

}  // namespace abacus::bench
