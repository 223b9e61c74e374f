output "nodes" {
  description = "Each node's role and address: QUIC on UDP, HTTP on TCP."
  value       = { for name, node in local.nodes : name => { role = node.role, address = node.address } }
}

output "apis" {
  description = "The HTTP API of each core."
  value       = { for name, node in local.nodes : name => "http://${node.address}" if node.role == "core" }
}
