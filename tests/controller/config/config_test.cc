#include "controller/config/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "client/protocol.h"
#include "shm/layout.h"
#include "tests/controller/config/every_key.h"

namespace abacus {
namespace {

using ::testing::AnyOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

Result<Config> Parse(std::string_view text, const std::vector<std::string>& overrides = {}) {
  return ParseConfig(text, kPath, overrides);
}

// kText with its line number `line` replaced.
std::string WithLine(size_t line, std::string_view replacement) {
  std::string result;
  size_t begin = 0;
  for (size_t number = 1; begin < kText.size(); ++number) {
    const size_t end = kText.find('\n', begin);
    result += number == line ? replacement : kText.substr(begin, end - begin);
    result += '\n';
    begin = end + 1;
  }
  return result;
}

std::string Replaced(std::string text, std::string_view from, std::string_view to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

TEST(ConfigTest, ReadsEveryKey) {
  const Result<Config> config = Parse(kText);
  ASSERT_TRUE(config) << config.error().message();
  EXPECT_EQ(config->path, kPath);
  EXPECT_EQ(config->server.name, "unit");
  EXPECT_THAT(config->server.listen, ElementsAre("tcp://127.0.0.1:7000", "tcp://[::1]:*"));
  EXPECT_FALSE(config->server.ipc);
  EXPECT_FALSE(config->server.leases);
  EXPECT_EQ(config->server.io_threads, 2);
  EXPECT_EQ(config->server.intake_threads, 5);
  EXPECT_EQ(config->server.arena_bytes, 64u << 20);
  EXPECT_EQ(config->server.log_level, "debug");
  EXPECT_EQ(config->server.drain_timeout_ns, 250'500'000u);
  EXPECT_EQ(config->limits.max_frame_bytes, 8u << 20);
  EXPECT_EQ(config->limits.max_message_bytes, 16u << 20);
  EXPECT_EQ(config->limits.max_frames, 5u);
  EXPECT_EQ(config->limits.max_client_bytes, 32u << 20);
  EXPECT_EQ(config->limits.max_client_queries, 10u);
  EXPECT_EQ(config->limits.max_clients, 20u);
  EXPECT_EQ(config->limits.max_queries, 30u);
  EXPECT_EQ(config->scheduler.policy, "edf");
  EXPECT_EQ(config->scheduler.packing, Packing::kFurthest);
  EXPECT_EQ(config->scheduler.batching, Batching::kOff);
  EXPECT_EQ(config->scheduler.max_queue_delay_us, 13u);
  EXPECT_EQ(config->scheduler.predictor, kPath.parent_path() / "unit.predictor");
  EXPECT_EQ(config->scheduler.margin, 0.25);
  EXPECT_EQ(config->scheduler.lead_us, 11u);
  EXPECT_EQ(config->scheduler.trace_events, 12u);
  EXPECT_FALSE(config->scheduler.abandon);
  EXPECT_EQ(config->scheduler.spin_us, 7u);
  EXPECT_EQ(config->worker.device, DeviceKind::kFake);
  EXPECT_THAT(config->worker.gpus, ElementsAre("1", "GPU-5"));
  EXPECT_EQ(config->worker.cpu_threads, 3);
  EXPECT_EQ(config->worker.load_timeout_ns, 1'500'000'000u);
  EXPECT_EQ(config->worker.round_timeout_ns, 99'000'000u);
  EXPECT_FALSE(config->worker.mps);
  EXPECT_EQ(config->worker.max_restarts_per_minute, 0u);
  EXPECT_EQ(config->worker.gate, "host");
  EXPECT_TRUE(config->worker.gpu_timestamps);
  ASSERT_EQ(config->services.size(), 2u);
  EXPECT_EQ(config->services[0].name, "text");
  EXPECT_EQ(config->services[0].model, kPath.parent_path() / "fake/fake-text.toml");
  EXPECT_EQ(config->services[0].qos_ns, 12'500'000u);
  EXPECT_EQ(config->services[0].queue_limit, 17u);
  EXPECT_EQ(config->services[0].max_batch, 3u);
  EXPECT_EQ(config->services[0].gpu, "GPU-5");
  EXPECT_EQ(config->services[0].spec.name, "fake-text");
  EXPECT_EQ(config->services[1].qos_ns, ServiceConfig().qos_ns);
  EXPECT_EQ(config->services[1].queue_limit, ServiceConfig().queue_limit);
  EXPECT_EQ(config->services[1].max_batch, 0u) << "the largest bucket";
  EXPECT_EQ(config->services[1].gpu, "1") << "the first of worker.gpu";
}

// One line of kText replaced: the error must name that line and the key, and say what is allowed.
struct Mutation {
  size_t line;
  std::string replacement;
  std::string key;
  std::string message;
};

void ExpectRefused(const std::vector<Mutation>& mutations) {
  for (const Mutation& mutation : mutations) {
    const Result<Config> config = Parse(WithLine(mutation.line, mutation.replacement));
    ASSERT_FALSE(config) << mutation.replacement;
    const std::string where = kPath.string() + ":" + std::to_string(mutation.line) + ": " + mutation.key + ": ";
    EXPECT_THAT(config.error().message(), StartsWith(where)) << mutation.replacement;
    EXPECT_THAT(config.error().message(), HasSubstr(mutation.message)) << mutation.replacement;
    EXPECT_EQ(config.error().code(), StatusCode::kInvalidArgument);
  }
}

// Mistakes that every key must survive; a date is the wrong type for all of them.
TEST(MutatedConfigTest, EveryKeyRefusesAWrongTypeAMisspellingAndADuplicate) {
  size_t line = 0;
  std::string section;
  int service = -1;
  size_t begin = 0;
  while (begin < kText.size()) {
    const size_t end = kText.find('\n', begin);
    const std::string text(kText.substr(begin, end - begin));
    begin = end + 1;
    ++line;
    if (text.starts_with("[[")) {
      section = "service[" + std::to_string(++service) + "]";
      continue;
    }
    if (text.starts_with("[")) {
      section = text.substr(1, text.size() - 2);
      continue;
    }
    const std::string key = text.substr(0, text.find(' '));
    const std::string path = section + "." + key;
    ExpectRefused({{line, key + " = 1979-05-27", path, "not a date or time"}});
    ExpectRefused({{line, key + "x = 1", path + "x", "unknown key; did you mean \"" + key + "\"?"}});
    const Result<Config> duplicate = Parse(WithLine(line, text + "\n" + text));
    ASSERT_FALSE(duplicate);
    EXPECT_THAT(duplicate.error().message(), StartsWith(kPath.string() + ":" + std::to_string(line + 1) + ": "));
    EXPECT_THAT(duplicate.error().message(), HasSubstr("'" + key + "'"));
  }
  EXPECT_EQ(service, 1);
}

// Key, smallest and largest accepted value; both must pass and the numbers beyond them must not.
TEST(MutatedConfigTest, EveryNumberHasItsBounds) {
  struct Bounds {
    size_t line;
    std::string section;
    std::string key;
    std::string low, below, high, above;
  };
  const std::vector<Bounds> table = {
      {6, "server", "io_threads", "1", "0", "16", "17"},
      {7, "server", "intake_threads", "1", "0", "16", "17"},
      {8, "server", "arena_mib", "10", "0", "1048576", "1048577"},
      {10, "server", "drain_timeout_ms", "0", "-1", "3600000", "3600001"},
      {12, "limits", "max_frame_mib", "5", "0", "16", "4097"},
      {13, "limits", "max_message_mib", "8", "0", "32", "65537"},
      {14, "limits", "max_frames", "2", "1", "17", "18"},
      {15, "limits", "max_client_mib", "16", "0", "1048576", "1048577"},
      {16, "limits", "max_client_queries", "1", "0", "1048576", "1048577"},
      {17, "limits", "max_clients", "1", "0", "65536", "65537"},
      {18, "limits", "max_queries", "1", "0", "16777216", "16777217"},
      {23, "scheduler", "max_queue_delay_us", "0", "-1", "1000000", "1000001"},
      {25, "scheduler", "margin", "0.01", "0.009", "0.5", "0.51"},
      {26, "scheduler", "lead_us", "0", "-1", "100000", "100001"},
      {27, "scheduler", "trace_events", "0", "-1", "10000000", "10000001"},
      {29, "scheduler", "spin_us", "-1", "-2", "1000000", "1000001"},
      {33, "worker", "cpu_threads", "1", "0", "256", "257"},
      {34, "worker", "load_timeout_s", "0.1", "0.09", "86400", "86401"},
      {35, "worker", "round_timeout_ms", "1", "0.5", "3600000", "3600001"},
      {37, "worker", "max_restarts_per_minute", "0", "-1", "600", "601"},
      {43, "service[0]", "qos_ms", "0.001", "0", "3600000", "3600001"},
      {44, "service[0]", "queue_limit", "1", "0", "1048576", "1048577"},
      {45, "service[0]", "max_batch", "0", "-1", "8", "65537"},
  };
  for (const Bounds& bounds : table) {
    const std::string path = bounds.section + "." + bounds.key;
    for (const std::string& good : {bounds.low, bounds.high}) {
      const Result<Config> config = Parse(WithLine(bounds.line, bounds.key + " = " + good));
      EXPECT_TRUE(config) << path << " = " << good << ": " << config.error().message();
    }
    for (const std::string& bad : {bounds.below, bounds.above, std::string("nan"), std::string("-inf"),
                                   std::string("9223372036854775807"), std::string("-9223372036854775808")}) {
      ExpectRefused({{bounds.line, bounds.key + " = " + bad, path, "must be a"}});
    }
    const Result<Config> huge = Parse(WithLine(bounds.line, bounds.key + " = 99999999999999999999"));
    ASSERT_FALSE(huge);
    EXPECT_THAT(huge.error().message(), StartsWith(kPath.string() + ":" + std::to_string(bounds.line) + ": "));
  }
}

TEST(MutatedConfigTest, StringsAreChecked) {
  ExpectRefused({
      {2, "name = ''", "server.name", "at least one character"},
      {2, "name = 'a/b'", "server.name", "letters, digits, '_' and '-'"},
      {2, "name = '..'", "server.name", "letters, digits, '_' and '-'"},
      {2, "name = '" + std::string(33, 'x') + "'", "server.name", "1 to 32"},
      {3, "listen = 5", "server.listen", "must be an array"},
      {3, "listen = [5]", "server.listen", "an array of strings"},
      {3, "listen = []", "server.listen", "must not be empty when ipc = false"},
      {3, "listen = ['127.0.0.1:5570']", "server.listen", "tcp://HOST:PORT"},
      {3, "listen = ['ipc:///tmp/x']", "server.listen", "set ipc = true"},
      {3, "listen = ['tcp://127.0.0.1']", "server.listen", "tcp://HOST:PORT"},
      {3, "listen = ['tcp://:5570']", "server.listen", "tcp://HOST:PORT"},
      {3, "listen = ['tcp://h:']", "server.listen", "tcp://HOST:PORT"},
      {3, "listen = ['tcp://h:65536']", "server.listen", "tcp://HOST:PORT"},
      {3, "listen = ['tcp://h:-1']", "server.listen", "tcp://HOST:PORT"},
      {3, "listen = ['tcp://h:1x']", "server.listen", "tcp://HOST:PORT"},
      {3, "listen = ['tcp://h h:1']", "server.listen", "tcp://HOST:PORT"},
      {3, "listen = ['tcp://::1:5570']", "server.listen", "an IPv6 address in brackets"},
      {3, "listen = ['tcp://h:1', 'tcp://h:1']", "server.listen", "stands twice"},
      {9, "log_level = 'verbose'", "server.log_level", "\"trace\", \"debug\", \"info\", \"warn\", \"error\""},
      {20, "policy = 'fcsf'", "scheduler.policy", "did you mean \"fcfs\"?"},
      {21, "packing = 'loose'", "scheduler.packing", "\"balanced\", \"furthest\""},
      {22, "batching = 'on'", "scheduler.batching", "\"greedy\", \"off\""},
      {31, "device = 'gpu'", "worker.device", "\"auto\", \"cpu\", \"cuda\", \"fake\""},
      {38, "gate = 'gpu'", "worker.gate", "\"device\", \"host\""},
      {41, "name = 'a b'", "service[0].name", "letters, digits"},
      {41, "name = '" + std::string(64, 'x') + "'", "service[0].name", "1 to 63"},
      {48, "name = 'text'", "service[1].name", "already the name of another service"},
      {42, "model = ''", "service[0].model", "at least one character"},
      {42, "model = 'fake'", "service[0].model", "not a regular file"},
  });
}

TEST(MutatedConfigTest, GpusAreChecked) {
  ExpectRefused({
      {32, "gpu = 64", "worker.gpu", "must be an index from 0 to 63"},
      {32, "gpu = -1", "worker.gpu", "must be an index from 0 to 63"},
      {32, "gpu = 'GPU 5'", "worker.gpu", "a UUID"},
      {32, "gpu = []", "worker.gpu", "must not be empty"},
      {32, "gpu = [1, 'GPU-5', 1]", "worker.gpu", "\"1\" stands twice"},
      {32, "gpu = [0, 1, 2, 3, 4, 5, 6, 7, 8]", "worker.gpu", "at most 8 GPUs"},
      {46, "gpu = 2", "service[0].gpu", "one of the GPUs of worker.gpu"},
      {46, "gpu = [1, 'GPU-5']", "service[0].gpu", "one of the GPUs of worker.gpu"},
  });
  const Result<Config> one = Parse(WithLine(46, ""), {"worker.gpu=63"});
  ASSERT_TRUE(one) << one.error().message();
  EXPECT_THAT(one->worker.gpus, ElementsAre("63"));
  EXPECT_EQ(one->services[0].gpu, "63");
}

TEST(MutatedConfigTest, SectionsAreChecked) {
  ExpectRefused({{1, "[sever]", "sever", "did you mean \"server\"?"}, {11, "[limit]", "limit", "\"limits\"?"}});
  EXPECT_THAT(Parse("server = 1\n[[service]]\n").error().message(), HasSubstr(":1: server: must be a table"));
  EXPECT_THAT(Parse("[service]\n").error().message(), HasSubstr(":1: service: must be an array"));
  EXPECT_THAT(Parse("").error().message(), HasSubstr("service: is missing"));
  EXPECT_THAT(Parse("service = []").error().message(), HasSubstr(":1: service: a configuration needs at least one"));
  EXPECT_THAT(Parse("[[service]]\nmodel = 'x'").error().message(), HasSubstr(":1: service[0].name: is missing"));
  EXPECT_THAT(Parse("[[service]]\nname = 'x'").error().message(), HasSubstr(":1: service[0].model: is missing"));
  std::string many;
  for (size_t i = 0; i <= kMaxServices; ++i) many += "[[service]]\nname = 's" + std::to_string(i) + "'\n";
  EXPECT_THAT(Parse(many).error().message(), HasSubstr(":33: service: at most 16 are allowed, there are 17"));
}

TEST(ConfigTest, ModelErrorsNameBothFiles) {
  const Result<Config> missing = Parse(WithLine(42, "model = 'nowhere.toml'"));
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code(), StatusCode::kNotFound);
  EXPECT_THAT(missing.error().message(), StartsWith(kPath.string() + ":42: service[0].model: "));
  EXPECT_THAT(missing.error().message(), HasSubstr("configs/nowhere.toml: no such file"));
  const Result<Config> wrong = Parse(WithLine(42, "model = 'fake.toml'"));  // a configuration, not a model
  ASSERT_FALSE(wrong);
  EXPECT_THAT(wrong.error().message(), HasSubstr("configs/fake.toml:"));
}

TEST(ConfigTest, ModelFilesCanBeLeftUnread) {
  const Result<Config> config = ParseConfig(WithLine(42, "model = 'nowhere.toml'"), kPath, {}, ModelFiles::kSkip);
  ASSERT_TRUE(config) << config.error().message();
  EXPECT_EQ(config->services[0].model, kPath.parent_path() / "nowhere.toml");
  EXPECT_TRUE(config->services[0].spec.name.empty());
}

TEST(ConfigTest, LimitsMustHoldTheLargestBucket) {
  EXPECT_THAT(Parse(WithLine(8, "arena_mib = 9")).error().message(),
              HasSubstr(":49: service[1].model: the largest bucket of \"fake-image\" takes 10 MiB but "
                        "server.arena_mib is 9"));
  EXPECT_THAT(Parse(WithLine(12, "max_frame_mib = 4")).error().message(),
              HasSubstr("input \"image\" of the largest bucket takes 5 MiB but limits.max_frame_mib is 4"));
  EXPECT_THAT(Parse(WithLine(12, "max_frame_mib = 17")).error().message(),
              HasSubstr("max_message_mib (16) must be at least max_frame_mib (17)"));
  EXPECT_THAT(Parse(WithLine(15, "max_client_mib = 15")).error().message(),
              HasSubstr("max_client_mib (15) must be at least max_message_mib (16)"));
}

TEST(ConfigTest, MaxBatchIsAtMostTheLargestBatchOfTheModel) {
  for (const std::string value : {"0", "1", "3", "8"}) {
    const Result<Config> config = Parse(WithLine(45, "max_batch = " + value));
    ASSERT_TRUE(config) << value << ": " << config.error().message();
    EXPECT_EQ(std::to_string(config->services[0].max_batch), value);
  }
  ExpectRefused({{45, "max_batch = 9", "service[0].max_batch",
                  "must be at most 8, the largest batch that \"fake-text\" was exported with, not 9; leave it out"}});
  const Result<Config> set = Parse(kText, {"service.max_batch=9"});
  ASSERT_FALSE(set);
  EXPECT_THAT(set.error().message(), StartsWith("--set service.max_batch=9: service[0].max_batch: must be at most 8"));
  const Result<Config> unread = ParseConfig(WithLine(45, "max_batch = 9"), kPath, {}, ModelFiles::kSkip);
  ASSERT_TRUE(unread) << unread.error().message();
  EXPECT_EQ(unread->services[0].max_batch, 9u) << "nobody knows the model yet";
}

TEST(ConfigTest, EveryPolicyHasAName) {
  for (const std::string_view name : kPolicyNames) {
    const Result<Config> config = Parse(kText, {"scheduler.policy=" + std::string(name)});
    ASSERT_TRUE(config) << config.error().message();
    EXPECT_EQ(config->scheduler.policy, name);
  }
}

TEST(ConfigTest, APredictorThatIsMissingIsNoError) {
  const Result<Config> missing = Parse(WithLine(24, "predictor = '../nowhere/none.predictor'"));
  ASSERT_TRUE(missing) << missing.error().message();
  EXPECT_EQ(missing->scheduler.predictor, kPath.parent_path().parent_path() / "nowhere/none.predictor");
  const Result<Config> absolute = Parse(WithLine(24, "predictor = '/somewhere/a.predictor'"));
  ASSERT_TRUE(absolute) << absolute.error().message();
  EXPECT_EQ(absolute->scheduler.predictor, "/somewhere/a.predictor");
  const Result<Config> none = Parse(WithLine(24, "predictor = 'none'"));
  ASSERT_TRUE(none) << none.error().message();
  EXPECT_TRUE(none->scheduler.predictor.empty());
  const Result<Config> unset = Parse(WithLine(25, ""));
  ASSERT_TRUE(unset) << unset.error().message();
  EXPECT_FALSE(unset->scheduler.margin.has_value()) << "the predictor's own error decides";
}

TEST(ConfigTest, SpinDefaultDependsOnTheCores) {
  const Result<Config> config = Parse(WithLine(29, "spin_us = -1"));
  ASSERT_TRUE(config);
  EXPECT_THAT(config->scheduler.spin_us, AnyOf(0u, 50u));
}

TEST(OverrideTest, ReplaceAndAddSettings) {
  const Result<Config> config =
      Parse(Replaced(std::string(kText), "policy = \"edf\"\n", ""),
            {"scheduler.policy=sjf", "server.name=other-name", "server.listen=tcp://127.0.0.1:*", "server.ipc=true",
             "limits.max_frames=17", "worker.load_timeout_s=2", "service.text.qos_ms=0.5", "scheduler.policy=free"});
  ASSERT_TRUE(config) << config.error().message();
  EXPECT_EQ(config->scheduler.policy, "free");  // the last one wins
  EXPECT_EQ(config->server.name, "other-name");
  EXPECT_THAT(config->server.listen, ElementsAre("tcp://127.0.0.1:*"));
  EXPECT_TRUE(config->server.ipc);
  EXPECT_EQ(config->limits.max_frames, 17u);
  EXPECT_EQ(config->worker.load_timeout_ns, 2'000'000'000u);
  EXPECT_EQ(config->services[0].qos_ns, 500'000u);
}

uint64_t DurationIn(const Config& config, const std::string& name) {
  if (name == "drain_timeout") return config.server.drain_timeout_ns;
  if (name == "lead") return config.scheduler.lead_us * uint64_t{1'000};
  if (name == "spin") return config.scheduler.spin_us * uint64_t{1'000};
  if (name == "max_queue_delay") return config.scheduler.max_queue_delay_us * uint64_t{1'000};
  if (name == "load_timeout") return config.worker.load_timeout_ns;
  if (name == "round_timeout") return config.worker.round_timeout_ns;
  return config.services[0].qos_ns;
}

struct DurationCase {
  size_t line;
  std::string section;
  std::string name;
  std::string unit;
  std::string too_long;
};
const std::vector<DurationCase>& DurationCases() {
  static const std::vector<DurationCase> cases = {
      {10, "server", "drain_timeout", "ms", "3601s"}, {26, "scheduler", "lead", "us", "100.001ms"},
      {29, "scheduler", "spin", "us", "1.000001s"},   {23, "scheduler", "max_queue_delay", "us", "1001ms"},
      {34, "worker", "load_timeout", "s", "24.1h"},   {35, "worker", "round_timeout", "ms", "60.1min"},
      {43, "service[0]", "qos", "ms", "61min"},
  };
  return cases;
}

TEST(DurationConfigTest, EveryDurationIsATextWithItsUnitUnderEitherKey) {
  for (const DurationCase& c : DurationCases()) {
    for (const std::string& key : {c.name, c.name + "_" + c.unit}) {
      const Result<Config> config = Parse(WithLine(c.line, key + " = '52ms'"));
      if (c.name == "load_timeout") {
        EXPECT_FALSE(config) << "below its bound of 100ms";
        continue;
      }
      ASSERT_TRUE(config) << config.error().message();
      EXPECT_EQ(DurationIn(*config, c.name), 52'000'000u) << key;
      ExpectRefused({{c.line, key + " = '" + c.too_long + "'", c.section + "." + key, "must be a "}});
      ExpectRefused({{c.line, key + " = '52'", c.section + "." + key, "one of ns, us, ms, s, min, h"}});
    }
    ExpectRefused({{c.line, c.name + " = 52", c.section + "." + c.name, "must be a duration from "}});
    const std::string both = c.name + "_" + c.unit + " = 60\n" + c.name + " = '60s'";
    ExpectRefused({{c.line, both, c.section + "." + c.name + "_" + c.unit, "means the same as"}});
  }
}

TEST(DurationConfigTest, TheCommandLineReplacesEitherSpelling) {
  for (const DurationCase& c : DurationCases()) {
    const std::string target = c.section == "service[0]" ? "service.text" : c.section;
    const std::string number = c.unit == "us" ? "99000" : c.unit == "ms" ? "99" : "0.099";
    for (const std::string& file_key : {c.name, c.name + "_" + c.unit}) {
      const std::string text = WithLine(c.line, file_key + " = '100ms'");
      const bool seconds = c.unit == "s";  // no less than 100ms
      for (const std::string& setting :
           {c.name + "=" + (seconds ? "0.1s" : "99ms"), c.name + "_" + c.unit + "=" + (seconds ? "0.1" : number)}) {
        const Result<Config> config = Parse(text, {target + "." + setting});
        ASSERT_TRUE(config) << setting << ": " << config.error().message();
        EXPECT_EQ(DurationIn(*config, c.name), seconds ? 100'000'000u : 99'000'000u) << setting;
      }
    }
  }
  const Result<Config> last = Parse(kText, {"service.text.qos=5ms", "service.text.qos_ms=6", "service.text.qos=7ms"});
  ASSERT_TRUE(last) << last.error().message();
  EXPECT_EQ(last->services[0].qos_ns, 7'000'000u);
}

TEST(DurationConfigTest, SpinAutoIsTheDefault) {
  for (const char* line : {"spin = 'auto'", "spin_us = -1", ""}) {
    const Result<Config> config = Parse(WithLine(29, line));
    ASSERT_TRUE(config) << config.error().message();
    EXPECT_THAT(config->scheduler.spin_us, AnyOf(0u, 50u));
  }
  EXPECT_EQ(Parse(WithLine(29, "spin = '0s'"))->scheduler.spin_us, 0u);
  ExpectRefused({{26, "lead = '1500ns'", "scheduler.lead", "in steps of 1us"},
                 {26, "lead_us = 1.5", "scheduler.lead_us", "in steps of 1us"},
                 {26, "lead = 'auto'", "scheduler.lead", "must be a duration"}});
}

TEST(OverrideTest, AServiceKeyWithoutANameIsForEveryService) {
  const Result<Config> config = Parse(kText, {"service.qos=50ms", "service.image.queue_limit=3"});
  ASSERT_TRUE(config) << config.error().message();
  EXPECT_EQ(config->services[0].qos_ns, 50'000'000u);
  EXPECT_EQ(config->services[1].qos_ns, 50'000'000u);
  EXPECT_EQ(config->services[0].queue_limit, 17u);
}

TEST(OverrideTest, AddsAMissingSectionAndTakesTomlValues) {
  const Result<Config> config = Parse("[[service]]\nname = 'x.y'\nmodel = 'fake/fake-text.toml'",
                                      {"server.listen=[]", "scheduler.policy=\"edf\"", "service.x.y.queue_limit=5"});
  ASSERT_TRUE(config) << config.error().message();
  EXPECT_THAT(config->server.listen, IsEmpty());
  EXPECT_EQ(config->scheduler.policy, "edf");
  EXPECT_EQ(config->services[0].queue_limit, 5u);
}

TEST(OverrideTest, PathsStartAtTheWorkingDirectory) {
  const auto predictor = [](const std::string& setting) {
    const Result<Config> config = Parse(kText, {"scheduler.predictor=" + setting});
    return config ? config->scheduler.predictor.string() : config.error().message();
  };
  EXPECT_EQ(predictor("profiles/mine.predictor"), std::filesystem::current_path() / "profiles/mine.predictor");
  EXPECT_EQ(predictor("'../mine.predictor'"), std::filesystem::current_path().parent_path() / "mine.predictor");
  EXPECT_EQ(predictor("/somewhere/mine.predictor"), "/somewhere/mine.predictor");
  EXPECT_EQ(predictor("none"), "");
  const std::string model = kPath.parent_path() / "fake/fake-text.toml";
  const Result<Config> config = Parse(kText, {"service.text.model=" + std::filesystem::relative(model).string()});
  ASSERT_TRUE(config) << config.error().message();
  EXPECT_EQ(config->services[0].model, model);
}

TEST(OverrideTest, ErrorsNameTheSetting) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"policy=edf", "must be section.key=value"},
      {"scheduler.policy", "must be section.key=value"},
      {".policy=edf", "must be section.key=value"},
      {"scheduler.=edf", "must be section.key=value"},
      {"scheduler.x.policy=edf", "must be section.key=value"},
      {"service.=5", "must be section.key=value, service.NAME.key=value or service.key=value"},
      {"", "must be section.key=value"},
      {"service.nobody.qos_ms=5", "there is no service \"nobody\""},
      {"scheduler.policy=fcsf", "did you mean \"fcfs\"?"},
      {"scheduler.polcy=fcfs", "did you mean \"policy\"?"},
      {"schedular.policy=fcfs", "did you mean \"scheduler\"?"},
      {"scheduler.spin_us=nan", "must be a number of us from 0 to 1000000, -1 for \"auto\""},
      {"scheduler.spin=50", "must be a duration from 0s to 1s"},
      {"service.text.qos=2h", "must be a duration from 1us to 1h"},
      {"service.text.qos_ms=5m", "a number and one of ns, us, ms, s, min, h"},
      {"service.name=image", "already the name of another service"},
      {"server.io_threads=", "neither TOML nor a bare word"},
      {"server.name=two words", "neither TOML nor a bare word"},
      {"server.name=x\nipc = true", "must be section.key=value"},
      {"server.name=[1", "neither TOML nor a bare word"},
      {"service.text.name=image", "already the name of another service"},
  };
  for (const auto& [setting, message] : cases) {
    const Result<Config> config = Parse(kText, {setting});
    ASSERT_FALSE(config) << setting;
    if (setting != "service.text.name=image") {  // found at the other service's line
      EXPECT_THAT(config.error().message(), StartsWith("--set " + setting + ": "));
    }
    EXPECT_THAT(config.error().message(), HasSubstr(message)) << setting;
    EXPECT_EQ(config.error().code(), StatusCode::kInvalidArgument);
  }
}

// --- files that ship with Abacus
// --------------------------------------------------------------------------------------

std::string ShippedText(const std::string& name) {
  std::ifstream stream(std::filesystem::path(ABACUS_SOURCE_DIR) / "configs" / name);
  return {std::istreambuf_iterator<char>(stream), {}};
}

TEST(ShippedConfigTest, FakeLoads) {
  const Result<Config> config = LoadConfig(std::filesystem::path(ABACUS_SOURCE_DIR) / "configs" / "fake.toml");
  ASSERT_TRUE(config) << config.error().message();
  EXPECT_EQ(config->worker.device, DeviceKind::kFake);
  EXPECT_EQ(config->services.size(), 2u);
}

// Model files are exported later, so another model stands in for them here.
std::string WithStandIns(std::string text) {
  constexpr std::string_view kStore = "model = \"../models/store/";
  for (size_t at = text.find(kStore); at != std::string::npos; at = text.find(kStore)) {
    text.replace(at, text.find('\n', at) - at, "model = \"fake/fake-image.toml\"");
  }
  return text;
}

TEST(ShippedConfigTest, SevenIsValid) {
  const Result<Config> config = Parse(WithStandIns(ShippedText("seven.toml")));
  ASSERT_TRUE(config) << config.error().message();
  EXPECT_EQ(config->services.size(), 7u);
  EXPECT_EQ(config->scheduler.policy, "abacus");
  EXPECT_EQ(config->scheduler.predictor, kPath.parent_path().parent_path() / "profiles/seven.predictor");
}

TEST(ShippedConfigTest, DefaultShowsEveryKeyWithItsDefault) {
  const std::string text = ShippedText("default.toml");
  for (size_t begin = 0; begin < kText.size();) {  // kText has every key
    const size_t end = kText.find('\n', begin);
    const std::string line(kText.substr(begin, end - begin));
    begin = end + 1;
    const std::string needle = line.starts_with("[") ? line : CanonicalKey(line.substr(0, line.find(' '))) + " = ";
    // A key whose default is no value stands in a comment.
    EXPECT_THAT(text, AnyOf(HasSubstr("\n" + needle), HasSubstr("\n# " + needle)))
        << "configs/default.toml must explain it";
  }
  EXPECT_THAT(text.substr(text.find("\n[[service]]")), HasSubstr("\n# gpu = ")) << "not only the one of [worker]";
  const Result<Config> config = Parse(WithStandIns(text));
  ASSERT_TRUE(config) << config.error().message();
  const Result<Config> bare = Parse("[[service]]\nname = 'x'\nmodel = 'fake/fake-image.toml'");
  ASSERT_TRUE(bare) << bare.error().message();
  for (const Config& other : {*bare, Config{}}) {
    EXPECT_EQ(config->server.name, other.server.name);
    EXPECT_EQ(config->server.listen, other.server.listen);
    EXPECT_EQ(config->server.ipc, other.server.ipc);
    EXPECT_EQ(config->server.leases, other.server.leases);
    EXPECT_EQ(config->server.io_threads, other.server.io_threads);
    EXPECT_EQ(config->server.intake_threads, other.server.intake_threads);
    EXPECT_EQ(config->server.arena_bytes, other.server.arena_bytes);
    EXPECT_EQ(config->server.log_level, other.server.log_level);
    EXPECT_EQ(config->server.drain_timeout_ns, other.server.drain_timeout_ns);
    EXPECT_EQ(config->limits.max_frame_bytes, other.limits.max_frame_bytes);
    EXPECT_EQ(config->limits.max_message_bytes, other.limits.max_message_bytes);
    EXPECT_EQ(config->limits.max_frames, other.limits.max_frames);
    EXPECT_EQ(config->limits.max_client_bytes, other.limits.max_client_bytes);
    EXPECT_EQ(config->limits.max_client_queries, other.limits.max_client_queries);
    EXPECT_EQ(config->limits.max_clients, other.limits.max_clients);
    EXPECT_EQ(config->limits.max_queries, other.limits.max_queries);
    EXPECT_EQ(config->scheduler.packing, other.scheduler.packing);
    EXPECT_EQ(config->scheduler.batching, other.scheduler.batching);
    EXPECT_EQ(config->scheduler.max_queue_delay_us, other.scheduler.max_queue_delay_us);
    EXPECT_EQ(config->scheduler.margin, other.scheduler.margin);
    EXPECT_EQ(config->scheduler.lead_us, other.scheduler.lead_us);
    EXPECT_EQ(config->scheduler.trace_events, other.scheduler.trace_events);
    EXPECT_EQ(config->scheduler.abandon, other.scheduler.abandon);
    EXPECT_EQ(config->worker.device, other.worker.device);
    EXPECT_EQ(config->worker.gpus, other.worker.gpus);
    EXPECT_EQ(config->worker.cpu_threads, other.worker.cpu_threads);
    EXPECT_EQ(config->worker.load_timeout_ns, other.worker.load_timeout_ns);
    EXPECT_EQ(config->worker.round_timeout_ns, other.worker.round_timeout_ns);
    EXPECT_EQ(config->worker.mps, other.worker.mps);
    EXPECT_EQ(config->worker.max_restarts_per_minute, other.worker.max_restarts_per_minute);
    EXPECT_EQ(config->worker.gate, other.worker.gate);
    EXPECT_EQ(config->worker.gpu_timestamps, other.worker.gpu_timestamps);
  }
  EXPECT_EQ(LimitsConfig().max_frames, protocol::kMaxTensors + 1);
  // These differ from the defaults, as their text says.
  EXPECT_EQ(config->scheduler.policy, "abacus");
  EXPECT_THAT(text, HasSubstr("# Left out: \"" + SchedulerConfig().policy + "\".\npolicy = "));
  EXPECT_EQ(config->scheduler.predictor, kPath.parent_path().parent_path() / "profiles/default.predictor");
}

}  // namespace
}  // namespace abacus
