# Node.js with long-term support, with TypeScript. firkin template add node
FROM node:lts-slim
RUN npm install --global typescript tsx
