#!/bin/sh
# Installs, upgrades, removes and purges the Debian package on a copy of this system: a layer
# over it that vanishes with the mount namespace we are in.
#
# Usage: install.sh PACKAGE FOLDER. Exit status 77: this kernel has no such layers here.
set -eu
package=$1
folder=$2
root=$folder/root

if [ "${3-}" != inside ]; then
	mount -t tmpfs tmpfs "$folder"
	mkdir "$folder/upper" "$folder/work" "$root"
	mount -t overlay overlay "$root" \
		-o "lowerdir=/,upperdir=$folder/upper,workdir=$folder/work" || exit 77
	# Without a running systemd, and without traces of an installation on this machine.
	mount -t tmpfs tmpfs "$root/run"
	for shared in dev proc; do mount --rbind "/$shared" "$root/$shared"; done
	rm -rf "$root/etc/cni" "$root/opt/cni" "$root/etc/cofferdam" "$root/var/lib/cofferdam"
	cp "$package" "$root/package.deb"
	cp "$0" "$root/install.sh"
	exec chroot "$root" sh /install.sh /package.deb / inside
fi

export DEBIAN_FRONTEND=noninteractive
network=/etc/cni/net.d/10-shop.conflist
wanted=/etc/systemd/system/multi-user.target.wants/cofferdam.service

claim() {
	"$@" || { echo "install.sh: not true: $*" >&2; exit 1; }
}

dpkg --install "$package"
claim [ -z "$(dpkg --verify cofferdam)" ]
claim [ "$(dpkg-query --show --showformat='${Status}' cofferdam)" = "install ok installed" ]
claim [ -L "$wanted" ]
claim [ -d /etc/cofferdam/policies ]
claim cofferdam --version
claim cofferdam agent --config /etc/cofferdam/config.yaml --print-config >/dev/null

# An upgrade keeps the administrator's configuration, and the runtime gets the new plugin.
mkdir -p /etc/cni/net.d /opt/cni/bin
echo '{"cniVersion": "1.0.0", "name": "shop", "plugins": [{"type": "bridge"}]}' >"$network"
cp "$network" /before
cofferdam install
echo old >/opt/cni/bin/cofferdam-cni
echo '# changed' >>/etc/cofferdam/config.yaml
dpkg --install "$package"
claim grep -q changed /etc/cofferdam/config.yaml
claim cmp -s /usr/bin/cofferdam-cni /opt/cni/bin/cofferdam-cni
claim grep -q cofferdam-cni "$network"

# Without the package containers start as before; what was configured waits for its return.
mkdir -p /var/lib/cofferdam
dpkg --remove cofferdam
claim cmp -s /before "$network"
claim [ ! -e /opt/cni/bin/cofferdam-cni ]
claim [ ! -e /usr/bin/cofferdam ]
claim grep -q changed /etc/cofferdam/config.yaml
claim [ -d /var/lib/cofferdam ]

dpkg --purge cofferdam
claim [ ! -e /etc/cofferdam ]
claim [ ! -e /var/lib/cofferdam ]
claim [ ! -e "$wanted" ]
echo 'install.sh: ok'
