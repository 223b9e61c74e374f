output "apis" {
  description = "The HTTP API of each core: POST /v1/meetings to any of them."
  value       = merge([for region in module.region : region.apis]...)
}

output "nodes" {
  description = "Every node's role and address."
  value       = merge([for region in module.region : region.nodes]...)
}

output "dns" {
  description = "How to ask the mesh's own DNS."
  value       = "dig @${split(":", var.dns_server)[0]} -p ${split(":", var.dns_server)[1]} edge.${var.domain}"
}
