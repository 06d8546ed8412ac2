//! Runs chains of network plugins as a container runtime does, by the text of the CNI
//! specification.
//!
//! A plugin gets the network's version and name, the result of the plugin before it, and the
//! values of the capabilities that it names; `DEL` goes through the chain backwards and ends
//! at the first error.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Map, Value, json};

use crate::packet::{End, Mac};
use crate::scratch::Scratch;
use crate::traffic::Place;
use crate::world::Namespace;

/// Folders in which distributions and container runtimes put plugins.
pub const FOLDERS: [&str; 3] = ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"];

/// Returns the folder that has the standard plugins.
///
/// # Errors
/// When there is none; the text says what to do.
pub fn standard_plugins() -> Result<PathBuf, String> {
    let mut folders = FOLDERS.map(PathBuf::from).into_iter();
    folders
        .find(|folder| folder.join("bridge").is_file())
        .ok_or_else(|| "no folder has them: `cargo xtask setup` installs them".to_owned())
}

/// Folders in which plugins are looked for, one of its own among them.
#[derive(Debug)]
pub struct Plugins {
    own: Scratch,
    folders: Vec<PathBuf>,
}

impl Plugins {
    /// The standard plugins, and `cofferdam-cni` as it was built with the running test.
    ///
    /// # Panics
    ///
    /// Panics if the folder cannot be made.
    pub fn with(cofferdam: &Path) -> Self {
        Self::within(Scratch::new(), cofferdam)
    }

    /// The same, with a folder for their own.
    ///
    /// # Panics
    ///
    /// Panics if there can be no link in it.
    pub fn within(own: Scratch, cofferdam: &Path) -> Self {
        symlink(cofferdam, own.path().join("cofferdam-cni")).expect("a link can be made");
        let mut folders = vec![own.path().to_owned()];
        folders.extend(standard_plugins().ok());
        Self { own, folders }
    }

    /// The folder that has `cofferdam-cni`.
    pub fn own(&self) -> &Path {
        self.own.path()
    }

    fn find(&self, plugin: &str) -> PathBuf {
        let mut paths = self.folders.iter().map(|folder| folder.join(plugin));
        let found = paths.find(|path| path.is_file());
        found.unwrap_or_else(|| panic!("there is no plugin {plugin} in {:?}", self.folders))
    }

    /// Value of `CNI_PATH`.
    ///
    /// # Panics
    ///
    /// Never: no folder has a colon in its name.
    pub fn path(&self) -> OsString {
        std::env::join_paths(&self.folders).expect("no colon in names of folders")
    }
}

/// A network as a `.conflist` has it.
#[derive(Debug, Clone)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// The version of the specification.
    pub version: String,
    /// Its plugins, in order.
    pub plugins: Vec<Value>,
}

impl Network {
    /// Reads a `.conflist`.
    ///
    /// # Panics
    ///
    /// Panics if it is none.
    pub fn parse(text: &str) -> Self {
        let list: Value = serde_json::from_str(text).expect("JSON");
        let text = |key: &str| list[key].as_str().expect("text").to_owned();
        Self {
            name: text("name"),
            version: text("cniVersion"),
            plugins: list["plugins"].as_array().expect("a list").clone(),
        }
    }

    /// Its file's text.
    pub fn conflist(&self) -> String {
        let list = json!({
            "cniVersion": self.version,
            "name": self.name,
            "plugins": self.plugins,
        });
        list.to_string()
    }
}

/// One container's attachment to a network, as a runtime keeps it.
#[derive(Debug)]
pub struct Attaching {
    /// The container's id.
    pub container_id: String,
    /// Its network namespace.
    pub namespace: Namespace,
    /// The interface it is to have.
    pub interface: String,
    /// `CNI_ARGS`.
    pub args: String,
    /// Values of capabilities, for the plugins that name them.
    pub capabilities: Map<String, Value>,
    /// The result of `ADD`.
    pub result: Value,
}

impl Attaching {
    /// A container that is not attached yet, in a namespace of its own where IPv6 addresses
    /// work at once.
    ///
    /// # Panics
    ///
    /// Panics if there can be no namespace.
    pub fn new(container_id: &str) -> Self {
        let namespace = Namespace::new().expect("a namespace");
        (namespace.set("net/ipv6/conf/default/accept_dad", "0")).expect("a parameter");
        Self {
            container_id: container_id.to_owned(),
            namespace,
            interface: "eth0".to_owned(),
            args: String::new(),
            capabilities: Map::new(),
            result: Value::Null,
        }
    }

    /// Gives it a name in Kubernetes' way.
    #[must_use]
    pub fn named(mut self, namespace: &str, name: &str) -> Self {
        self.args = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name}");
        self
    }

    /// Gives the runtime's value of a capability.
    #[must_use]
    pub fn capability(mut self, name: &str, value: Value) -> Self {
        self.capabilities.insert(name.to_owned(), value);
        self
    }

    /// Its address and addresses, by the result of `ADD`.
    ///
    /// # Panics
    ///
    /// Panics if the result has none.
    pub fn end(&self) -> End {
        let interfaces = self.result["interfaces"].as_array().expect("interfaces");
        let mut inside = interfaces
            .iter()
            .filter(|one| one["name"] == *self.interface);
        let mac = inside.next().and_then(|one| one["mac"].as_str());
        let bytes: Vec<u8> = (mac.expect("a MAC address").split(':'))
            .map(|byte| u8::from_str_radix(byte, 16).expect("a byte"))
            .collect();
        let mut end = End {
            mac: Mac(bytes.try_into().expect("six bytes")),
            ipv4: None,
            ipv6: None,
        };
        for ip in self.result["ips"].as_array().expect("addresses") {
            let address = ip["address"].as_str().and_then(|ip| ip.split('/').next());
            let address: std::net::IpAddr = (address.expect("text").parse()).expect("an address");
            end = end.with_ip(address);
        }
        end
    }

    /// The namespace that its sockets are opened in.
    ///
    /// # Panics
    ///
    /// Panics if it has no addresses.
    pub fn place(&self) -> Place<'_> {
        Place {
            name: &self.container_id,
            namespace: &self.namespace,
            end: self.end(),
        }
    }
}

/// Error of a plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginError {
    /// Name of the plugin.
    pub plugin: String,
    /// The number; 0 when the output is no error of the specification.
    pub code: u64,
    /// Message and details, or the output.
    pub message: String,
}

/// A runtime in a node's namespace.
#[derive(Debug)]
pub struct Runtime<'n> {
    /// The node.
    pub node: &'n Namespace,
    /// Its plugins.
    pub plugins: &'n Plugins,
}

impl Runtime<'_> {
    /// Attaches a container; its result is kept and returned.
    ///
    /// # Errors
    /// Those of the first plugin that fails.
    pub fn add(&self, network: &Network, one: &mut Attaching) -> Result<Value, PluginError> {
        one.result = Value::Null;
        for plugin in &network.plugins {
            let output = self.call("ADD", network, plugin, Some(&*one))?;
            one.result = serde_json::from_slice(&output)
                .unwrap_or_else(|error| panic!("{plugin} printed no result: {error}"));
        }
        Ok(one.result.clone())
    }

    /// Ends an attachment.
    ///
    /// # Errors
    /// Those of the first plugin that fails, from the last on.
    pub fn del(&self, network: &Network, one: &Attaching) -> Result<(), PluginError> {
        let backwards = network.plugins.iter().rev();
        for plugin in backwards {
            self.call("DEL", network, plugin, Some(one))?;
        }
        Ok(())
    }

    /// Has a command run by one plugin of a network.
    ///
    /// # Errors
    /// The plugin's.
    ///
    /// # Panics
    ///
    /// Panics if there is no such plugin, or it cannot be run.
    pub fn call(
        &self,
        command: &str,
        network: &Network,
        plugin: &Value,
        one: Option<&Attaching>,
    ) -> Result<Vec<u8>, PluginError> {
        let name = plugin["type"].as_str().expect("a type");
        let child = self.begin(command, network, plugin, one);
        let output = (child.wait_with_output())
            .unwrap_or_else(|error| panic!("cannot wait for {name}: {error}"));
        if output.status.success() {
            return Ok(output.stdout);
        }
        let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let text = |key: &str| said[key].as_str().unwrap_or_default();
        let message = if said.is_object() {
            format!("{} {}", text("msg"), text("details"))
        } else {
            format!("{output:?}")
        };
        Err(PluginError {
            plugin: name.to_owned(),
            code: said["code"].as_u64().unwrap_or_default(),
            message,
        })
    }

    /// Begins such a command, and does not wait for it.
    ///
    /// # Panics
    ///
    /// As there.
    pub fn begin(
        &self,
        command: &str,
        network: &Network,
        plugin: &Value,
        one: Option<&Attaching>,
    ) -> Child {
        let input = configuration(network, plugin, one).to_string();
        let name = plugin["type"].as_str().expect("a type");
        let mut environment = vec![
            ("CNI_COMMAND", OsString::from(command)),
            ("CNI_PATH", self.plugins.path()),
        ];
        if let Some(one) = one {
            environment.extend([
                ("CNI_CONTAINERID", OsString::from(&one.container_id)),
                ("CNI_NETNS", one.namespace.path().into_os_string()),
                ("CNI_IFNAME", OsString::from(&one.interface)),
                ("CNI_ARGS", OsString::from(&one.args)),
            ]);
        }
        let _inside = self.node.enter().expect("a namespace");
        start(&self.plugins.find(name), &environment, input.as_bytes())
            .unwrap_or_else(|error| panic!("cannot run {name}: {error}"))
    }
}

/// Standard input of a plugin of a network.
fn configuration(network: &Network, plugin: &Value, one: Option<&Attaching>) -> Value {
    let mut input = plugin.clone();
    input["cniVersion"] = network.version.clone().into();
    input["name"] = network.name.clone().into();
    let Some(one) = one else {
        return input;
    };
    let named = plugin["capabilities"].as_object().into_iter().flatten();
    let values: Map<String, Value> = named
        .filter(|(_, is_wanted)| **is_wanted == true)
        .filter_map(|(name, _)| Some((name.clone(), one.capabilities.get(name)?.clone())))
        .collect();
    if !values.is_empty() {
        input["runtimeConfig"] = values.into();
    }
    if !one.result.is_null() {
        input["prevResult"] = one.result.clone();
    }
    input
}

/// Runs a plugin as it is, with this environment and input.
///
/// # Errors
/// When it cannot be started.
pub fn run(plugin: &Path, environment: &[(&str, OsString)], input: &[u8]) -> io::Result<Output> {
    start(plugin, environment, input)?.wait_with_output()
}

fn start(plugin: &Path, environment: &[(&str, OsString)], input: &[u8]) -> io::Result<Child> {
    let mut command = Command::new(plugin);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CNI_") {
            command.env_remove(name);
        }
    }
    let mut child = command
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A plugin that has seen enough may have closed it.
        _ = stdin.write_all(input);
    }
    Ok(child)
}

/// The bridge plugin on a bridge of this name, with addresses from `host-local`, whose leases
/// are kept in a folder.
pub fn bridge(bridge: &str, number: u8, leases: &Path) -> Value {
    json!({
        "type": "bridge",
        "bridge": bridge,
        "isGateway": true,
        "ipMasq": false,
        "ipam": host_local(number, leases),
    })
}

/// The ptp plugin, in the same way.
pub fn ptp(number: u8, leases: &Path) -> Value {
    json!({"type": "ptp", "ipMasq": false, "ipam": host_local(number, leases)})
}

fn host_local(number: u8, leases: &Path) -> Value {
    _ = fs::create_dir_all(leases);
    json!({
        "type": "host-local",
        "dataDir": leases,
        "ranges": [
            [{"subnet": format!("10.{number}.0.0/24")}],
            [{"subnet": format!("fd{number:02}::/64")}],
        ],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
    })
}
