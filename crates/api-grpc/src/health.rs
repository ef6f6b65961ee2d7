//! grpc.health.v1, kept true: a master serves while it hears a leader.

use store::Store;
use tokio::sync::watch;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::{HealthReporter, health_reporter};

/// What may be asked for by name; the empty name is the master as a whole.
const SERVICES: [&str; 6] = [
    "",
    "balsa.objects.v1.Objects",
    "balsa.observe.v1.Observe",
    "balsa.cluster.v1.Cluster",
    "balsa.cluster.v1.CertificateAuthority",
    "balsa.dispatch.v1.Dispatch",
];

async fn tell(reporter: &HealthReporter, ready: bool) {
    let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
    for service in SERVICES {
        reporter.set_service_status(service, status).await;
    }
}

/// The health service; it follows the store's leadership until `stop` turns true, and then says that this
/// master does not serve any more.
pub async fn server(store: &Store, mut stop: watch::Receiver<bool>) -> HealthServer<impl Health + use<>> {
    let (reporter, server) = health_reporter();
    let mut leadership = store.leadership();
    let mut ready = leadership.borrow_and_update().leader.is_some();
    tell(&reporter, ready).await;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                news = leadership.changed() => if news.is_err() { break },
                _ = stop.wait_for(|stop| *stop) => break,
            }
            let now = leadership.borrow_and_update().leader.is_some();
            if now != ready {
                ready = now;
                tell(&reporter, ready).await;
            }
        }
        tell(&reporter, false).await;
    });
    server
}
