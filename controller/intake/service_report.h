// What requests for the list of models and for the state of the services are answered with.
//
// Thread rule: pure functions; what they read of the segment follows the rules of shm/layout.h.
#ifndef ABACUS_CONTROLLER_INTAKE_SERVICE_REPORT_H_
#define ABACUS_CONTROLLER_INTAKE_SERVICE_REPORT_H_

#include "client/protocol.h"
#include "controller/config/service_set.h"
#include "shm/region.h"

namespace abacus {

// Fills reply->models.
void ReportModels(const ServiceSet& services, protocol::Reply* reply);

// Fills reply->services; reply->ready: all of them are.
void ReportHealth(const ServiceSet& services, const Region& region, protocol::Reply* reply);

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_INTAKE_SERVICE_REPORT_H_
