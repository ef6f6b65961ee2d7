//! Unmodified kubectl against the cluster, where one is installed ($KUBECTL, or on the path).

use crate::cluster::{Cluster, deployment, wanted};
use std::process::Command;

fn kubectl(cluster: &Cluster, context: &str, arguments: &str) -> Result<String, String> {
    let program = std::env::var("KUBECTL").unwrap_or_else(|_| "kubectl".into());
    let mut command = Command::new(program);
    command.arg("--kubeconfig").arg(cluster.dir.join("kubeconfig")).args(["--context", context]);
    let output = command.args(arguments.split_whitespace()).output().map_err(|error| error.to_string())?;
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() { Ok(text) } else { Err(text) }
}

#[test]
fn a_tour_of_verbs_through_the_common_address_and_each_master() {
    if !wanted("a_tour_of_verbs_through_the_common_address_and_each_master") {
        return;
    }
    if Command::new(std::env::var("KUBECTL").unwrap_or_else(|_| "kubectl".into()))
        .arg("version")
        .arg("--client")
        .output()
        .is_err()
    {
        eprintln!("skipped: the kubectl tour (no kubectl is installed)");
        return;
    }
    let cluster = Cluster::up();
    let manifest = cluster.dir.join("web.yaml");
    std::fs::write(&manifest, deployment("web", 2, "")).unwrap();
    let manifest = manifest.to_string_lossy().into_owned();
    for context in ["balsa", "master-1", "master-2", "master-3"] {
        let ok = |arguments: &str| {
            kubectl(&cluster, context, arguments).unwrap_or_else(|e| panic!("{context}: kubectl {arguments}: {e}"))
        };
        let fails = |arguments: &str, why: &str| {
            let told = kubectl(&cluster, context, arguments).expect_err(arguments);
            assert!(told.contains(why), "{context}: kubectl {arguments}: {told}");
        };
        assert!(ok(&format!("apply -f {manifest}")).contains("created"));
        assert!(ok(&format!("apply -f {manifest}")).contains("unchanged"));
        ok("rollout status deployment/web --timeout=60s");
        ok("wait --for=condition=Available deployment/web --timeout=30s");
        ok("scale deployment/web --replicas=3");
        ok("set image deployment/web c=none:2");
        ok("rollout status deployment/web --timeout=60s");
        assert!(ok("rollout history deployment/web").contains('2'));
        ok("rollout undo deployment/web");
        ok("rollout status deployment/web --timeout=60s");
        ok("rollout restart deployment/web");
        ok("rollout status deployment/web --timeout=60s");
        ok("rollout pause deployment/web");
        ok("rollout resume deployment/web");
        ok("label deployment/web tier=front");
        ok("annotate deployment/web note=x");
        assert!(ok("get deployments -l tier=front").contains("web"));
        assert!(ok("get pods -A -o wide").contains("worker-"));
        assert!(ok("describe deployment web").contains("ScalingReplicaSet"));
        ok("create configmap made --from-literal=a=b");
        ok("create secret generic made --from-literal=a=b");
        ok("patch configmap made --type=merge -p {\"data\":{\"c\":\"d\"}}");
        assert!(ok("get configmap made -o jsonpath={.data.c}").contains('d'));
        fails("get configmap none", "not found");
        fails("create configmap made", "already exists");
        ok("delete configmap/made secret/made");
        ok("cordon worker-1");
        assert!(ok("get nodes").contains("SchedulingDisabled"));
        ok("drain worker-1 --ignore-daemonsets --force --timeout=60s");
        ok("uncordon worker-1");
        ok("taint nodes worker-1 a=b:NoSchedule");
        ok("taint nodes worker-1 a:NoSchedule-");
        ok("delete deployment web --cascade=foreground --timeout=60s");
        for verb in ["api-resources", "cluster-info", "version", "get events"] {
            ok(verb);
        }
    }
}
