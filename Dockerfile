# A worker, and the command line. `docker compose` builds it; see docker-compose.yml for what it has to be given.
FROM node:20.20.2-bookworm-slim AS build
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
RUN npm ci
COPY tsconfig.json tsconfig.build.json ./
COPY scripts/bundle-workflows.mjs scripts/
COPY src src
RUN npm run build && npm prune --omit=dev

FROM node:20.20.2-bookworm-slim
RUN apt-get update \
  && apt-get install -y --no-install-recommends qemu-utils qemu-block-extra libnbd-bin nbdkit libvirt-clients openssl \
  && rm -rf /var/lib/apt/lists/*
WORKDIR /app
# Threads for calls to the file system: one that hangs keeps its thread.
ENV NODE_ENV=production UV_THREADPOOL_SIZE=64
COPY --from=build /app/node_modules node_modules
COPY --from=build /app/dist dist
COPY package.json LICENSE ./
COPY bin bin
COPY drizzle drizzle
# Root: libvirt's socket and the files of its disks belong to it.
ENTRYPOINT ["node", "bin/backupvm.js"]
CMD ["worker"]
