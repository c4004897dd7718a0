#include "controller/intake/clients.h"

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <set>
#include <vector>

namespace abacus {
namespace {

class ClientsTest : public testing::Test {
 protected:
  ClientsTest() : table_(8) {
    limits_.max_client_queries = 2;
    limits_.max_client_bytes = 10'000;
    limits_.max_queries = 3;
    clients_ = std::make_unique<Clients>(limits_, &table_);
  }
  StatusCode Quota(const Peer& peer, uint64_t id, uint64_t bytes = 0) {
    const auto within = clients_->CheckQuota(peer, id, bytes);
    return within ? StatusCode::kOk : within.error().code;
  }
  uint32_t Accept(Peer* peer, uint64_t id, uint64_t bytes = 0) {
    const uint32_t slot = clients_->Hold(peer).value();
    table_[slot].id = id;
    table_[slot].service = service_;
    table_[slot].block = {0, bytes};
    clients_->Accepted(slot);
    return slot;
  }

  const ServicePtr service_ = std::make_shared<const Service>();
  LimitsConfig limits_;
  QueryTable table_;
  std::unique_ptr<Clients> clients_;
};

TEST_F(ClientsTest, AreToldApartByConnection) {
  Peer* first = clients_->PeerOf(1, "name");
  EXPECT_EQ(clients_->PeerOf(1, "name"), first);
  Peer* second = clients_->PeerOf(2, "name");
  EXPECT_NE(second, first) << "a client that connected again, or another one that bears its name";
  EXPECT_EQ(first->identity, "name");
  EXPECT_EQ(second->identity, "name");
  EXPECT_EQ(clients_->size(), 2u);
}

TEST_F(ClientsTest, OneThatConnectsAgainBeginsAnew) {
  Peer* before = clients_->PeerOf(1, "name");
  Accept(before, 7);
  Accept(before, 8);
  Peer* after = clients_->PeerOf(2, "name");
  EXPECT_EQ(Quota(*after, 7), StatusCode::kOk) << "ids and quotas are the connection's";
}

TEST_F(ClientsTest, EachHasAQuotaOfQueriesUntilItsRepliesHaveLeft) {
  Peer* a = clients_->PeerOf(1, "a");
  Peer* b = clients_->PeerOf(2, "b");
  const uint32_t first = Accept(a, 1);
  Accept(a, 2);
  EXPECT_EQ(Quota(*a, 3), StatusCode::kOverloaded);
  EXPECT_EQ(Quota(*b, 3), StatusCode::kOk) << "the others do not notice";
  clients_->Answered(first);
  EXPECT_EQ(Quota(*a, 3), StatusCode::kOverloaded) << "its reply has not left yet";
  clients_->Release(first);
  EXPECT_EQ(Quota(*a, 3), StatusCode::kOk);
}

TEST_F(ClientsTest, EachHasAQuotaOfBytes) {
  Peer* a = clients_->PeerOf(1, "a");
  const uint32_t slot = Accept(a, 1, 8192);
  EXPECT_EQ(Quota(*a, 2, 10'000 - 8192), StatusCode::kOk);
  EXPECT_EQ(Quota(*a, 2, 10'000 - 8191), StatusCode::kOverloaded);
  clients_->Release(slot);
  EXPECT_EQ(a->bytes, 0u);
  EXPECT_EQ(Quota(*a, 2, 10'000), StatusCode::kOk);
}

TEST_F(ClientsTest, ShareAQuotaOfQueries) {
  Accept(clients_->PeerOf(1, "a"), 1);
  Accept(clients_->PeerOf(2, "b"), 1);
  EXPECT_EQ(Quota(*clients_->PeerOf(3, "c"), 1), StatusCode::kOk);
  Accept(clients_->PeerOf(3, "c"), 1);
  EXPECT_EQ(Quota(*clients_->PeerOf(4, "d"), 1), StatusCode::kOverloaded);
}

TEST_F(ClientsTest, AnIdIsFreeOnceItsReplyIsOnItsWay) {
  Peer* a = clients_->PeerOf(1, "a");
  const uint32_t slot = Accept(a, 7);
  const auto again = clients_->CheckQuota(*a, 7, 0);
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code, StatusCode::kInvalidArgument);
  EXPECT_EQ(again.error().field, "id");
  EXPECT_EQ(Quota(*clients_->PeerOf(2, "b"), 7), StatusCode::kOk) << "ids are each client's own";
  clients_->Answered(slot);
  EXPECT_EQ(Quota(*a, 7), StatusCode::kOk);
}

TEST_F(ClientsTest, AQueryIsFoundByItsClientOnlyAndUntilItIsAnswered) {
  Peer* a = clients_->PeerOf(1, "a");
  Peer* b = clients_->PeerOf(2, "b");
  const uint32_t slot = Accept(a, 7);
  const uint32_t other = Accept(b, 8);
  EXPECT_EQ(Clients::QueryOf(*a, 7), slot);
  EXPECT_EQ(Clients::QueryOf(*a, 8), std::nullopt) << "another client's";
  EXPECT_EQ(Clients::QueryOf(*b, 8), other);
  clients_->Answered(slot);
  EXPECT_EQ(Clients::QueryOf(*a, 7), std::nullopt);
}

TEST_F(ClientsTest, QueriesOfSomePeersAreListed) {
  Peer* a = clients_->PeerOf(1, "a");
  const uint32_t first = Accept(a, 7), second = Accept(a, 8);
  Accept(clients_->PeerOf(2, "b"), 7);
  std::set<uint32_t> found;
  const auto list = [&] {
    found.clear();
    clients_->ForQueriesOf([](const Peer& peer) { return peer.number == 1; },
                           [&](uint32_t slot) { found.insert(slot); });
    return found;
  };
  EXPECT_EQ(list(), (std::set<uint32_t>{first, second}));
  clients_->Answered(first);
  EXPECT_EQ(list(), (std::set<uint32_t>{second}));
}

TEST_F(ClientsTest, OneThatReadsNothingIsCutOff) {
  Peer* a = clients_->PeerOf(1, "a");
  std::vector<uint32_t> slots;
  for (int i = 0; i < 4; ++i) {
    EXPECT_FALSE(clients_->CutOff(*a)) << i;
    slots.push_back(clients_->Hold(a).value());  // refusals
  }
  EXPECT_TRUE(clients_->CutOff(*a));
  EXPECT_EQ(Quota(*a, 1), StatusCode::kOk) << "refusals are no queries";
  clients_->Release(slots[0]);
  EXPECT_FALSE(clients_->CutOff(*a));
}

TEST_F(ClientsTest, HoldNoMoreSlotsThanThereAre) {
  std::vector<uint32_t> slots;
  while (const auto slot = clients_->Hold(clients_->PeerOf(slots.size() + 1, "p"))) slots.push_back(*slot);
  EXPECT_EQ(slots.size(), table_.capacity());
  EXPECT_EQ(clients_->in_use(), table_.capacity());
  EXPECT_EQ(clients_->PeerOf(99, "late")->held, 0u);
  for (const uint32_t slot : slots) clients_->Release(slot);
  EXPECT_EQ(clients_->in_use(), 0u);
}

TEST_F(ClientsTest, AReleasedSlotForgetsItsQuery) {
  const uint32_t slot = Accept(clients_->PeerOf(1, "a"), 1, 4096);
  EXPECT_EQ(service_.use_count(), 2);
  clients_->Release(slot);
  EXPECT_EQ(service_.use_count(), 1) << "a service that was replaced must not live on in a free slot";
  EXPECT_EQ(table_[slot].peer, nullptr);
  EXPECT_EQ(table_[slot].block.bytes, 0u);
}

TEST_F(ClientsTest, ASweepForgetsThoseThatHoldNothing) {
  Peer* busy = clients_->PeerOf(5, "busy");
  clients_->PeerOf(6, "idle");
  const uint32_t slot = Accept(busy, 1);
  clients_->Sweep();
  EXPECT_EQ(clients_->size(), 1u);
  EXPECT_EQ(clients_->PeerOf(5, "busy"), busy);
  clients_->Release(slot);
  clients_->Sweep();
  EXPECT_EQ(clients_->size(), 0u);
}

}  // namespace
}  // namespace abacus
