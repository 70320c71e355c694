{{- define "robustreps.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "robustreps.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "robustreps.labels" -}}
{{ include "robustreps.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "robustreps.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "robustreps.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{/* The pod's part of a security context: no process is root, whatever the image says. */}}
{{- define "robustreps.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "robustreps.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Settings as variables: (dict "root" . "settings" (list ...)); a later one of the same name counts. They stand in the
pods, not in a ConfigMap, so that a change of them rolls out, and the hook has them before there is anything else. */}}
{{- define "robustreps.env" -}}
{{- $all := dict "LOG_FORMAT" "json" -}}
{{- range $settings := .settings }}{{ $all = merge (dict) $settings $all }}{{ end -}}
{{- range $name, $value := $all }}
- name: ROBUSTREPS_{{ $name }}
  value: {{ if kindIs "float64" $value }}{{ if eq $value (floor $value) }}{{ $value | int64 | quote }}{{ else }}{{ $value | quote }}{{ end }}{{ else }}{{ $value | quote }}{{ end }}
{{- end }}
{{- end -}}

{{/* Authorities and certificates of the servers, where settings name files of them. */}}
{{- define "robustreps.certificates" -}}
{{- with .Values.certificates }}
- name: certificates
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- end -}}

{{- define "robustreps.certificatesMount" -}}
{{- if .Values.certificates }}
- {name: certificates, mountPath: /etc/robustreps/certificates, readOnly: true}
{{- end }}
{{- end -}}

{{- define "robustreps.secrets" -}}
- secretRef: {name: {{ .Values.existingSecret }}}
{{- end -}}

{{/* Those that a worker needs, and no more: (dict "root" . "names" (list ...)). */}}
{{- define "robustreps.secretEnv" -}}
{{- range $name := .names }}
- name: ROBUSTREPS_{{ $name }}
  valueFrom: {secretKeyRef: {name: {{ $.root.Values.existingSecret }}, key: ROBUSTREPS_{{ $name }}, optional: true}}
{{- end }}
{{- end -}}

{{- define "robustreps.workerSecrets" -}}
{{- include "robustreps.secretEnv" (dict "root" . "names" (list "DATABASE_URL" "BROKER_URL" "S3_ACCESS_KEY" "S3_SECRET_KEY" "METRICS_TOKEN")) -}}
{{- end -}}

{{- define "robustreps.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* What a worker's pod and a training node's have alike: (dict "root" . "sharedMemory" SIZE). */}}
{{- define "robustreps.workerVolumes" -}}
- name: data
  emptyDir: {sizeLimit: {{ .root.Values.workers.cacheSize }}}
- name: tmp
  emptyDir: {}
- name: shm
  emptyDir: {medium: Memory, sizeLimit: {{ .sharedMemory }}}
{{- include "robustreps.certificates" .root }}
{{- end -}}

{{- define "robustreps.workerMounts" -}}
- {name: data, mountPath: /var/lib/robustreps}
- {name: tmp, mountPath: /tmp}
- {name: shm, mountPath: /dev/shm}
{{- include "robustreps.certificatesMount" . }}
{{- end -}}

{{/* A worker that lives is ready once it has announced itself. There is no liveness probe: the process ends by itself
when its device hangs, and while a server is away a new one could do no more. */}}
{{- define "robustreps.workerProbes" -}}
readinessProbe:
  exec: {command: [robustreps, health, --worker]}
  periodSeconds: 30
  timeoutSeconds: 20
  failureThreshold: 2
{{- end -}}
