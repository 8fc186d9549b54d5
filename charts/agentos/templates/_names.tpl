{{/* The installation: the release's name, with the chart's in it. Release "agentos" gives plain "agentos". */}}
{{- define "agentos.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name }}{{ else }}{{ printf "%s-%s" (.Release.Name | trunc 46 | trimSuffix "-") .Chart.Name }}{{ end }}
{{- end }}

{{/* The operator's Deployment, ServiceAccount, Service and roles. */}}
{{- define "agentos.operator" -}}
{{ include "agentos.name" . }}-operator
{{- end }}

{{/* Labels that select the operator's pods; they never change for a release. */}}
{{- define "agentos.selector" -}}
app.kubernetes.io/name: agentos-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Labels of every object; the chart's own win over extraLabels. */}}
{{- define "agentos.labels" -}}
{{- $own := fromYaml (include "agentos.selector" .) -}}
{{- $_ := set $own "app.kubernetes.io/version" .Chart.AppVersion -}}
{{- $_ := set $own "app.kubernetes.io/component" "operator" -}}
{{- $_ := set $own "app.kubernetes.io/part-of" "agentos" -}}
{{- $_ := set $own "app.kubernetes.io/managed-by" .Release.Service -}}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version) -}}
{{ merge $own .Values.extraLabels | toYaml }}
{{- end }}

{{/* The operator's image with its tag. */}}
{{- define "agentos.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
