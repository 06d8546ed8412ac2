{{- define "cofferdam.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}{{ end -}}
{{- end }}

{{- define "cofferdam.labels" -}}
app.kubernetes.io/name: cofferdam
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "cofferdam.selector" -}}
app.kubernetes.io/name: cofferdam
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "cofferdam.image" -}}
{{- with .Values.image }}
{{- if .digest }}{{ printf "%s@%s" .repository .digest }}{{ else }}{{ printf "%s:%s" .repository (.tag | default $.Chart.AppVersion) }}{{ end }}
{{- end }}
{{- end }}

{{- /* The agent's configuration. What the chart decides counts before `config`. */ -}}
{{- define "cofferdam.config" -}}
{{- $kubernetes := dict "enabled" true -}}
{{- if not .Values.report }}{{ $_ := set $kubernetes "report" false }}{{ end -}}
{{- if .Values.taint }}{{ $_ := set $kubernetes "taint" true }}{{ end -}}
{{- if hasKey .Values.config "kubernetes" }}{{ $kubernetes = merge $kubernetes .Values.config.kubernetes }}{{ end -}}
{{- $own := dict "kubernetes" $kubernetes "policies" list "limits" .Values.limits -}}
{{- $_ := set $own "metrics" (ternary (printf "127.0.0.1:%d" (int .Values.metrics.port)) "" .Values.metrics.local) -}}
{{- if eq .Values.enforcement "audit" }}{{ $_ := set $own "enforcement" "audit" }}{{ end -}}
{{- if .Values.metrics.tls.enabled -}}
{{- $tls := dict "address" (printf "[::]:%d" (int .Values.metrics.tls.port)) -}}
{{- $_ := set $tls "certificate" "/etc/cofferdam-tls/tls.crt" -}}
{{- $_ := set $tls "key" "/etc/cofferdam-tls/tls.key" -}}
{{- $_ := set $tls "client_ca" "/etc/cofferdam-tls/ca.crt" -}}
{{- $_ := set $own "metrics_tls" $tls -}}
{{- end -}}
{{- if hasKey .Values.config "policies" }}{{ $_ := set $own "policies" .Values.config.policies }}{{ end -}}
{{- range $key, $value := .Values.config }}{{ if not (hasKey $own $key) }}{{ $_ := set $own $key $value }}{{ end }}{{ end -}}
{{- toYaml $own }}
{{- end }}

{{- /*
Memory limit of the agent in MiB. The kernel's maps are charged to it, whole; those of flows
grow as they fill, to the next power of two. Two tables are there while one is replaced.
docs/install-kubernetes.md has the sum.
*/ -}}
{{- define "cofferdam.memory" -}}
{{- $limits := .Values.limits -}}
{{- $room := 16 -}}
{{- range until 19 }}{{ if lt $room (int $limits.flows_per_endpoint) }}{{ $room = mul $room 2 }}{{ end }}{{ end -}}
{{- $flows := mul (int64 $limits.endpoints) $room 256 -}}
{{- $endpoints := mul (int64 $limits.endpoints) 16384 -}}
{{- $slots := mul (int64 $limits.slots) 128 -}}
{{- $rules := mul (int64 $limits.rules) 96 -}}
{{- $tables := mul (int64 $limits.table_pages) 65536 2 -}}
{{- add 256 (div (add $flows $endpoints $slots $rules $tables) 1048576) -}}
{{- end }}

{{- define "cofferdam.api" -}}
{{- if .Values.api.host -}}
- {name: KUBERNETES_SERVICE_HOST, value: {{ .Values.api.host | quote }}}
- {name: KUBERNETES_SERVICE_PORT, value: {{ .Values.api.port | quote }}}
{{- end }}
{{- end }}
