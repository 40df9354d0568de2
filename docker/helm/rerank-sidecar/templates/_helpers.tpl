{{- define "rerank-sidecar.name" -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- define "rerank-sidecar.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* The container, for this chart's deployment and for the pods of another chart (`mode: beside`). */}}
{{- define "rerank-sidecar.container" -}}
{{- $server := (fromYaml .Values.config).server | default dict -}}
{{- $loopback := regexMatch "^(127\\.|localhost:|\\[::1\\])" ($server.address | default "127.0.0.1:50051") -}}
{{- if not (or $server.tls $loopback .Values.insecure) -}}
{{- fail "insecure is false: set server.tls in config, or listen on 127.0.0.1:50051 (mode: beside)" -}}
{{- end -}}
{{- if and $server.tls (not .Values.health.options) -}}
{{- fail "server.tls is set in config: set health.options, as [--tls-ca, FILE, --tls-name, NAME]" -}}
{{- end -}}
{{- if and (eq .Values.mode "beside") (not (or $server.tls $loopback)) -}}
{{- fail "beside an app: listen on 127.0.0.1:50051 (server.address in config), or set server.tls" -}}
{{- end -}}
{{- if and $loopback (ne .Values.mode "beside") -}}
{{- fail "server.address in config is 127.0.0.1, where no other pod reaches it: 0.0.0.0:50051, or mode: beside" -}}
{{- end -}}
name: rerank-sidecar
image: "{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}"
imagePullPolicy: {{ .Values.image.pullPolicy }}
args: ["serve", "/etc/rerank-sidecar/config/rerank-sidecar.yaml"{{ if .Values.insecure }}, "--insecure"{{ end }}]
ports:
  {{- if not $loopback }}
  - {name: rerank-grpc, containerPort: 50051}
  {{- end }}
  - {name: rerank-metrics, containerPort: 9464}
{{- with .Values.secretEnv }}
envFrom:
  - secretRef: {name: {{ . }}}
{{- end }}
{{- with .Values.extraEnv }}
env: {{- toYaml . | nindent 2 }}
{{- end }}
# Ready as soon as models are loaded or have failed: a broken model must not take search down. The startup and liveness
# probes only check that the port is open. Kubernetes itself would probe the pod's address, which a port on 127.0.0.1 does
# not have, and without TLS: in these cases a command in the container is the probe.
startupProbe: {{- include "rerank-sidecar.open" $loopback | nindent 2 }}
  failureThreshold: 30
  periodSeconds: 2
livenessProbe: {{- include "rerank-sidecar.open" $loopback | nindent 2 }}
  periodSeconds: 10
  failureThreshold: 6
readinessProbe:
  {{- if or $loopback $server.tls }}
  exec: {command: {{ concat (list "rerank-sidecar" "health") .Values.health.options | toJson }}}
  periodSeconds: 10
  {{- else }}
  grpc: {port: 50051}
  periodSeconds: 5
  {{- end }}
  timeoutSeconds: 5
lifecycle:
  preStop: {exec: {command: ["sleep", {{ .Values.preStopPauseSeconds | quote }}]}}
resources:
  requests: {{- toYaml .Values.resources.requests | nindent 4 }}
  limits: {{- toYaml (merge (dict) .Values.resources.limits .Values.extraLimits) | nindent 4 }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
  seccompProfile: {type: RuntimeDefault}
volumeMounts:
  - {name: rerank-sidecar-config, mountPath: /etc/rerank-sidecar/config, readOnly: true}
  - {name: rerank-sidecar-tmp, mountPath: /tmp}
  {{- if .Values.tlsSecret }}
  - {name: rerank-sidecar-tls, mountPath: /etc/rerank-sidecar/tls, readOnly: true}
  {{- end }}
  {{- with .Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* A probe that the port is open; argument: whether it listens on loopback. */}}
{{- define "rerank-sidecar.open" -}}
{{- if . -}}
exec: {command: ["python", "-c", "import socket; socket.create_connection(('127.0.0.1', 50051), 2)"]}
timeoutSeconds: 5
{{- else -}}
tcpSocket: {port: 50051}
{{- end -}}
{{- end -}}

{{/* The volumes that the container mounts. */}}
{{- define "rerank-sidecar.volumes" -}}
- name: rerank-sidecar-config
  configMap: {name: {{ include "rerank-sidecar.name" . }}}
- name: rerank-sidecar-tmp
  emptyDir: {}
{{- if .Values.tlsSecret }}
- name: rerank-sidecar-tls
  secret: {secretName: {{ .Values.tlsSecret }}}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}
