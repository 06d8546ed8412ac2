//! A cluster of any size, as the documents people write, from a seed.
//!
//! Shaped like clusters are: namespaces of a team and a stage, each with some ten
//! applications in tiers, their pods spread over all nodes, and every pod with labels
//! of its own that nothing selects on. Of the policies most are the few that every
//! namespace has (nothing unless allowed, name service, monitoring) and one or two
//! for each application: from the tier before it, to the tier behind it by the name
//! of a port, to networks of outside services. A few policies are of the whole
//! cluster.

use std::fmt::Write as _;

use fastrand::Rng;

/// Size of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Pods, without those of the two namespaces of the system.
    pub pods: usize,
    /// Policies of namespaces.
    pub policies: usize,
    /// Pods on a node. The first node is the one that is asked about.
    pub pods_per_node: usize,
}

/// A file of documents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its name.
    pub name: String,
    /// Text of the file.
    pub text: String,
}

/// The name of the node that is asked about: that of an agent under test.
pub const NODE: &str = "n1";

const TIERS: [&str; 4] = ["web", "api", "worker", "db"];
/// The port of each tier; it has the tier's name, and some applications' differ.
const PORTS: [usize; 4] = [8080, 9090, 9191, 5432];
const STAGES: [&str; 3] = ["prod", "staging", "dev"];
const TEAMS: usize = 40;
const PODS_PER_NAMESPACE: usize = 200;
const PODS_PER_APPLICATION: usize = 20;
/// Endpoints of each slice of a Service.
const ENDPOINTS: usize = 5;
/// Networks of outside services.
const NETWORKS: usize = 5_000;
/// Policies that every namespace has.
const COMMON: usize = 3;

/// A cluster.
#[derive(Clone, Copy, Debug)]
pub struct Cluster {
    size: Size,
    seed: u64,
    services: usize,
}

impl Cluster {
    /// A cluster of a size; the same seed gives the same one.
    pub fn new(size: Size, seed: u64) -> Self {
        Self {
            size,
            seed,
            services: 0,
        }
    }

    /// The same with Services, each with a slice of either family that has five pods of one
    /// application, by turns.
    pub fn with_services(self, services: usize) -> Self {
        Self { services, ..self }
    }

    /// All its documents.
    pub fn files(&self) -> Vec<File> {
        let mut files = vec![
            File {
                name: "nodes.yaml".to_owned(),
                text: self.nodes(),
            },
            File {
                name: "system.yaml".to_owned(),
                text: self.system(),
            },
            File {
                name: "cluster-policies.yaml".to_owned(),
                text: cluster_policies(),
            },
        ];
        for namespace in 0..self.namespaces() {
            files.push(File {
                name: format!("{}-pods.yaml", namespace_name(namespace)),
                text: self.pods(namespace),
            });
            let text = self.policies(namespace);
            if !text.is_empty() {
                files.push(File {
                    name: format!("{}-policies.yaml", namespace_name(namespace)),
                    text,
                });
            }
        }
        if self.services > 0 {
            for namespace in 0..self.namespaces() {
                files.push(File {
                    name: format!("{}-services.yaml", namespace_name(namespace)),
                    text: self.services_of(namespace),
                });
            }
        }
        files
    }

    /// A slice that replaces that of a Service, with so many of its five endpoints.
    pub fn slice_of(&self, service: usize, endpoints: usize) -> String {
        self.slice(service, "IPv4", endpoints)
    }

    /// The pods of [`NODE`], as `namespace/name`, without those of the system.
    pub fn local_pods(&self) -> Vec<String> {
        (0..self.size.pods)
            .step_by(self.nodes_count())
            .map(|pod| format!("{}/pod-{pod}", namespace_name(self.place(pod).0)))
            .collect()
    }

    /// A policy on a pod of [`NODE`] that is in none of the files, or one that
    /// replaces it, by turns of `number`.
    pub fn one_more_policy(&self, number: usize) -> String {
        let (namespace, application) = self.place(0);
        let networks: Vec<String> = (0..5).map(|i| network(number * 5 + i)).collect();
        policy(
            namespace,
            "one-more",
            &format!(
                "  podSelector: {{matchLabels: {{app: app-{application}}}}}\n  egress:\n  - to:\n{}    \
                 ports: [{{port: {}}}]\n",
                blocks(&networks),
                1_000 + number % 60_000
            ),
        )
    }

    /// A pod like `pod`, one of [`NODE`]'s, with an address nobody has.
    pub fn twin(&self, pod: usize, address: &str) -> String {
        let pod = pod * self.nodes_count();
        let text = self.pod_of(pod, 0, 0, Some(&format!("[{{ip: {address}}}]")));
        text.replace("name: pod-", "name: twin-")
    }

    /// A pod of another node that is in none of the files, or one that replaces it with
    /// the labels of another application of its namespace, by turns of `number`.
    pub fn pod_elsewhere(&self, number: usize) -> String {
        let applications = PODS_PER_NAMESPACE / PODS_PER_APPLICATION;
        let pod = number % applications * PODS_PER_APPLICATION;
        // No pod of a cluster is the 253rd of its node.
        let text = self.pod_of(
            pod,
            1,
            252,
            Some("[{ip: 10.0.1.253}, {ip: 'fd00:10:1::fd'}]"),
        );
        text.replace(&format!("pod-{pod}"), "elsewhere")
    }

    fn namespaces(&self) -> usize {
        self.size.pods.div_ceil(PODS_PER_NAMESPACE)
    }

    fn nodes_count(&self) -> usize {
        self.size.pods.div_ceil(self.size.pods_per_node)
    }

    /// The namespace and application of a pod.
    fn place(&self, pod: usize) -> (usize, usize) {
        (pod / PODS_PER_NAMESPACE, pod / PODS_PER_APPLICATION)
    }

    fn nodes(&self) -> String {
        let mut text = String::new();
        for node in 0..self.nodes_count() {
            let name = node_name(node);
            write!(
                text,
                "---\napiVersion: v1\nkind: Node\nmetadata: {{name: {name}, labels: {{zone: z{}, \
                 kubernetes.io/hostname: {name}}}}}\nstatus: {{addresses: [{{type: InternalIP, \
                 address: 172.20.{}.{}}}]}}\n",
                node % 3,
                node / 250,
                node % 250 + 1
            )
            .expect("writing to a string");
        }
        text
    }

    fn system(&self) -> String {
        let mut text = String::new();
        for (i, (namespace, app)) in [("kube-system", "dns"), ("monitoring", "scraper")]
            .into_iter()
            .enumerate()
        {
            write!(
                text,
                "---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}}}\n---\napiVersion: \
                 v1\nkind: Pod\nmetadata: {{name: {app}, namespace: {namespace}, labels: {{app: \
                 {app}}}}}\nspec: {{nodeName: {NODE}, containers: [{{ports: [{{name: dns, containerPort: \
                 53, protocol: UDP}}]}}]}}\nstatus: {{podIPs: [{{ip: 10.255.255.{}}}]}}\n",
                i + 1
            )
            .expect("writing to a string");
        }
        text
    }

    fn pods(&self, namespace: usize) -> String {
        let mut text = format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {}, labels: {{team: team-{}, stage: \
             {}}}}}\n",
            namespace_name(namespace),
            namespace % TEAMS,
            stage(namespace)
        );
        let first = namespace * PODS_PER_NAMESPACE;
        for pod in first..(first + PODS_PER_NAMESPACE).min(self.size.pods) {
            let nodes = self.nodes_count();
            text += &self.pod_of(pod, pod % nodes, pod / nodes, None);
        }
        text
    }

    fn services_of(&self, namespace: usize) -> String {
        let applications = self.size.pods.div_ceil(PODS_PER_APPLICATION);
        let of_namespace = PODS_PER_NAMESPACE / PODS_PER_APPLICATION;
        let own = (namespace * of_namespace)..((namespace + 1) * of_namespace).min(applications);
        let mut text = String::new();
        for service in own.flat_map(|first| (first..self.services).step_by(applications)) {
            let application = service % applications;
            let tier = TIERS[application % TIERS.len()];
            write!(
                text,
                "---\napiVersion: v1\nkind: Service\nmetadata: {{name: svc-{service}, namespace: \
                 {}}}\nspec:\n  clusterIPs: [10.128.{}.{}, 'fd00:96::{service:x}']\n  selector: {{app: \
                 app-{application}}}\n  ports:\n  - {{name: {tier}, port: 80, targetPort: {tier}}}\n  \
                 - {{name: metrics, port: 9100, targetPort: metrics}}\n",
                namespace_name(namespace),
                service / 250,
                service % 250 + 1,
            )
            .expect("writing to a string");
            for family in ["IPv4", "IPv6"] {
                text += &self.slice(service, family, ENDPOINTS);
            }
        }
        text
    }

    /// A slice of a Service, with the first of its endpoints.
    fn slice(&self, service: usize, family: &str, endpoints: usize) -> String {
        let applications = self.size.pods.div_ceil(PODS_PER_APPLICATION);
        let application = service % applications;
        let namespace = application * PODS_PER_APPLICATION / PODS_PER_NAMESPACE;
        let tier = application % TIERS.len();
        let port = PORTS[tier] + application % 3;
        let first = service / applications * ENDPOINTS;
        let endpoints: Vec<String> = (first..first + endpoints)
            .map(|at| {
                let pod = application * PODS_PER_APPLICATION + at % PODS_PER_APPLICATION;
                let nodes = self.nodes_count();
                let [v4, v6] = addresses_of(pod % nodes, pod / nodes);
                let address = if family == "IPv4" { v4 } else { v6 };
                format!(
                    "{{addresses: ['{address}'], conditions: {{ready: true, serving: true, terminating: \
                     false}}, targetRef: {{kind: Pod, name: pod-{pod}, namespace: {}}}}}",
                    namespace_name(namespace)
                )
            })
            .collect();
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: \
             svc-{service}-{}, namespace: {}, labels: {{kubernetes.io/service-name: \
             svc-{service}}}}}\naddressType: {family}\nports: [{{name: {}, port: {port}}}, {{name: metrics, \
             port: 9100}}]\nendpoints: [{}]\n",
            family.to_lowercase(),
            namespace_name(namespace),
            TIERS[tier],
            endpoints.join(", ")
        )
    }

    /// A pod, which is so many-th of its node; with addresses other than those that follow.
    fn pod_of(&self, pod: usize, node: usize, on_node: usize, addresses: Option<&str>) -> String {
        let (namespace, application) = self.place(pod);
        let tier = application % TIERS.len();
        let port = PORTS[tier] + application % 3;
        let addresses = match addresses {
            Some(addresses) => addresses.to_owned(),
            None => {
                let [v4, v6] = addresses_of(node, on_node);
                format!("[{{ip: {v4}}}, {{ip: '{v6}'}}]")
            }
        };
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: pod-{pod}\n  namespace: {}\n  labels:\n    \
             app: app-{application}\n    tier: {}\n    version: v{}\n    pod-template-hash: '{:x}'\n    \
             statefulset.kubernetes.io/pod-name: pod-{pod}\nspec:\n  nodeName: {}\n  containers:\n  \
             - ports: [{{name: {}, containerPort: {port}}}, {{name: metrics, containerPort: \
             9100}}]\nstatus:\n  phase: Running\n  podIPs: {addresses}\n",
            namespace_name(namespace),
            TIERS[tier],
            pod % 2,
            (application as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32,
            node_name(node),
            TIERS[tier],
        )
    }

    /// The policies of a namespace: the common ones, then its applications' in turn.
    fn policies(&self, namespace: usize) -> String {
        let (all, namespaces) = (self.size.policies, self.namespaces());
        let count = all * (namespace + 1) / namespaces - all * namespace / namespaces;
        let mut rng = Rng::with_seed(self.seed ^ namespace as u64);
        let applications = PODS_PER_NAMESPACE / PODS_PER_APPLICATION;
        (0..count)
            .map(|i| {
                if i < COMMON {
                    return common(namespace, i);
                }
                let i = i - COMMON;
                let application = namespace * applications + i % applications;
                application_policy(&mut rng, namespace, application, i / applications)
            })
            .collect()
    }
}

fn namespace_name(namespace: usize) -> String {
    format!("ns-{namespace}")
}

/// The addresses of the so many-th pod of a node.
fn addresses_of(node: usize, on_node: usize) -> [String; 2] {
    [
        format!("10.{}.{}.{}", node / 256, node % 256, on_node % 254 + 1),
        format!("fd00:10:{node:x}::{:x}", on_node + 1),
    ]
}

fn node_name(node: usize) -> String {
    match node {
        0 => NODE.to_owned(),
        _ => format!("node-{node}"),
    }
}

fn stage(namespace: usize) -> &'static str {
    STAGES[namespace / TEAMS % STAGES.len()]
}

/// A network of an outside service, one of [`NETWORKS`]; some lie in others.
fn network(number: usize) -> String {
    let number = number % NETWORKS;
    let (high, low) = (number / 250, number % 250);
    match number % 5 {
        0 => format!("198.{}.{low}.0/24", 18 + high % 2),
        1 => format!("203.{high}.{low}.64/26"),
        2 => format!("2001:db8:{number:x}::/48"),
        3 => format!("203.{high}.{low}.{}/32", number % 200),
        _ => format!("100.{}.{low}.0/25", 128 + high),
    }
}

fn blocks(networks: &[String]) -> String {
    (networks.iter())
        .map(|cidr| format!("    - ipBlock: {{cidr: '{cidr}'}}\n"))
        .collect()
}

fn policy(namespace: usize, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  name: {name}\n  \
         namespace: {}\nspec:\n{spec}",
        namespace_name(namespace)
    )
}

/// Returns the policies that every namespace has.
fn common(namespace: usize, which: usize) -> String {
    let (name, spec) = match which {
        0 => (
            "default-deny",
            "  podSelector: {}\n  policyTypes: [Ingress, Egress]\n",
        ),
        1 => (
            "name-service",
            "  podSelector: {}\n  policyTypes: [Egress]\n  egress:\n  - to:\n    - namespaceSelector: \
             {matchLabels: {kubernetes.io/metadata.name: kube-system}}\n      podSelector: {matchLabels: \
             {app: dns}}\n    ports: [{protocol: UDP, port: dns}, {protocol: TCP, port: 53}]\n",
        ),
        _ => (
            "monitoring",
            "  podSelector: {}\n  ingress:\n  - from:\n    - namespaceSelector: {matchLabels: \
             {kubernetes.io/metadata.name: monitoring}}\n      podSelector: {matchLabels: {app: \
             scraper}}\n    ports: [{port: metrics}]\n",
        ),
    };
    policy(namespace, name, spec)
}

/// The first policy of an application says who comes in, the second where it may go;
/// more of them open it to other teams.
fn application_policy(rng: &mut Rng, namespace: usize, application: usize, which: usize) -> String {
    let tier = application % TIERS.len();
    let before = TIERS[(tier + TIERS.len() - 1) % TIERS.len()];
    let (behind, own) = (TIERS[(tier + 1) % TIERS.len()], TIERS[tier]);
    let subject = format!("  podSelector: {{matchLabels: {{app: app-{application}}}}}\n");
    let spec = match which {
        0 => format!(
            "{subject}  ingress:\n  - from: [{{podSelector: {{matchExpressions: [{{key: tier, operator: \
             In, values: [{before}, {own}]}}]}}}}]\n    ports: [{{port: {own}}}]\n"
        ),
        1 => {
            let networks: Vec<String> = (0..rng.usize(1..20))
                .map(|_| network(rng.usize(..NETWORKS)))
                .collect();
            format!(
                "{subject}  policyTypes: [Egress]\n  egress:\n  - to: [{{podSelector: {{matchLabels: \
                 {{tier: {behind}}}}}}}]\n    ports: [{{port: {behind}}}]\n  - to:\n{}    - ipBlock: \
                 {{cidr: 0.0.0.0/0, except: [10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, \
                 169.254.0.0/16]}}\n    ports: [{{port: 443}}, {{port: {}, endPort: {}}}]\n",
                blocks(&networks),
                8_000 + rng.usize(..50),
                8_100 + rng.usize(..50),
            )
        }
        _ => format!(
            "{subject}  ingress:\n  - from: [{{namespaceSelector: {{matchLabels: {{team: team-{}, stage: \
             {}}}}}, podSelector: {{matchLabels: {{tier: {before}}}}}}}]\n    ports: [{{port: {own}}}, \
             {{port: {}}}]\n",
            rng.usize(..TEAMS),
            stage(namespace),
            10_000 + rng.usize(..50),
        ),
    };
    policy(namespace, &format!("app-{application}-{which}"), &spec)
}

/// Policies of the whole cluster: guards before all others, and a floor below them.
fn cluster_policies() -> String {
    let mut text = String::new();
    let mut add = |name: &str, tier: &str, priority: usize, subject: &str, rules: &str| {
        write!(
            text,
            "---\napiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: \
             {{name: {name}}}\nspec:\n  tier: {tier}\n  priority: {priority}\n  subject: {subject}\n{rules}"
        )
        .expect("writing to a string");
    };
    let everybody = "{namespaces: {}}";
    add(
        "name-service",
        "Admin",
        5,
        everybody,
        "  egress:\n  - {action: Accept, to: [{pods: {namespaceSelector: {matchLabels: \
         {kubernetes.io/metadata.name: kube-system}}, podSelector: {matchLabels: {app: dns}}}}], protocols: \
         [{udp: {destinationPort: {number: 53}}}]}\n",
    );
    add(
        "no-metadata",
        "Admin",
        10,
        everybody,
        "  egress:\n  - {action: Deny, to: [{networks: [169.254.169.254/32, 'fd00:ec2::254/128']}]}\n",
    );
    for (i, stage) in STAGES.iter().enumerate() {
        add(
            &format!("{stage}-apart"),
            "Admin",
            100 + i,
            &format!("{{namespaces: {{matchLabels: {{stage: {stage}}}}}}}"),
            &format!(
                "  ingress:\n  - {{action: Deny, from: [{{namespaces: {{matchExpressions: [{{key: stage, \
                 operator: NotIn, values: [{stage}]}}, {{key: stage, operator: Exists}}]}}}}]}}\n"
            ),
        );
    }
    add(
        "floor",
        "Baseline",
        500,
        everybody,
        "  ingress:\n  - {action: Deny, from: [{namespaces: {}}]}\n",
    );
    text
}

#[cfg(test)]
mod tests {
    use cofferdam_documents::{assemble, parse};
    use cofferdam_inventory::services::Services;
    use cofferdam_inventory::{ObjectName, Owner};
    use cofferdam_verdict::address::Family;

    use super::*;

    #[test]
    fn every_document_is_good_and_there_are_as_many_as_were_asked_for() {
        let size = Size {
            pods: 1_050,
            policies: 107,
            pods_per_node: 250,
        };
        let cluster = Cluster::new(size, 7);
        let mut documents = Vec::new();
        for file in cluster.files() {
            let parsed = parse(&file.name, file.text.as_bytes());
            assert_eq!(parsed.diagnostics, [], "{}", file.text);
            documents.extend(parsed.documents);
        }
        let assembled = assemble(documents);
        assert_eq!(assembled.diagnostics, []);
        let inventory = assembled.inventory;
        assert_eq!(inventory.workloads().len(), size.pods + 2);
        assert_eq!(inventory.policies().len(), size.policies);
        assert_eq!(inventory.cluster_policies().len(), 6);
        let on_first = (inventory.workloads().values())
            .filter(|workload| workload.node.as_deref() == Some(NODE));
        assert_eq!(on_first.count(), 210 + 2);
        for pod in cluster.local_pods() {
            let (namespace, name) = pod.split_once('/').expect("two parts");
            let pod = &inventory.workloads()[&ObjectName::new(namespace, name)];
            assert_eq!(pod.node.as_deref(), Some(NODE));
        }
        assert_eq!(cluster.local_pods().len(), 210);
        assert_eq!(cluster.files(), Cluster::new(size, 7).files());
    }

    #[test]
    fn every_service_leads_to_five_pods_of_its_application() {
        let size = Size {
            pods: 1_050,
            policies: 0,
            pods_per_node: 250,
        };
        let mut documents = Vec::new();
        for file in Cluster::new(size, 7).with_services(107).files() {
            let parsed = parse(&file.name, file.text.as_bytes());
            assert_eq!(parsed.diagnostics, [], "{}", file.text);
            documents.extend(parsed.documents);
        }
        let inventory = assemble(documents).inventory;
        assert_eq!(inventory.services().len(), 107);
        let services = Services::new(&inventory);
        for service in inventory.services().values() {
            for (port, family) in
                (service.ports.iter()).flat_map(|port| [Family::V4, Family::V6].map(|f| (port, f)))
            {
                let backends = services.backends(service, port, family);
                assert_eq!(backends.len(), ENDPOINTS, "{}", service.name);
                for backend in backends {
                    let owner = inventory.owner(backend.address);
                    let pod = backend.pod.map(Owner::Workload);
                    assert_eq!(owner, pod, "the slice and the pod agree");
                }
            }
        }
    }
}
